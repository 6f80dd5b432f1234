"""The five methods: DFDA-AD, NF-BMR, MLFF, TrisimpleNet and SLSG."""
