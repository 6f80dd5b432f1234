"""Beyond one machine: archives and many products on Ray, Triton repositories, bundles by digest."""
