#!/usr/bin/env bash
# What the run-time is made of, and whether any of it is known to be unsafe.
#
# Installs a wheel with the extra given into a fresh environment, writes its software bill of
# materials (CycloneDX) and asks pip-audit. Ends with 1 when a known weakness is found. Where
# pip-audit's service cannot be asked it says so and ends with 3: "not audited" is not "safe".
#
# Usage: .ci/supply_chain.sh WHEEL [EXTRA] [OUT_DIR]
set -euo pipefail

wheel=$(realpath "$1")
extra=${2:-cpu}
out=$(realpath -m "${3:-dist}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$out"

python3 -m venv "$work/runtime"
"$work/runtime/bin/pip" install --quiet "${wheel}[${extra}]"
python3 -m venv "$work/tools"
"$work/tools/bin/pip" install --quiet "cyclonedx-bom>=5" "pip-audit>=2.7"

"$work/tools/bin/cyclonedx-py" environment "$work/runtime/bin/python" \
  --output-reproducible --of JSON -o "$out/sbom-$extra.cdx.json"
echo "bill of materials: $out/sbom-$extra.cdx.json"

"$work/runtime/bin/pip" freeze --exclude edgead > "$work/requirements.txt"
status=0
"$work/tools/bin/pip-audit" --no-deps --disable-pip -r "$work/requirements.txt" \
  --format json -o "$out/audit-$extra.json" 2> "$work/audit.log" || status=$?
if ! [ -s "$out/audit-$extra.json" ]; then
  tail -3 "$work/audit.log" >&2
  echo "not audited: pip-audit's service cannot be asked from here" >&2
  exit 3
fi
python3 - "$out/audit-$extra.json" <<'PYTHON'
import json
import sys

found = json.load(open(sys.argv[1]))["dependencies"]
skipped = [entry["name"] for entry in found if "skip_reason" in entry]
unsafe = [(entry["name"], v["id"]) for entry in found for v in entry.get("vulns", [])]
for name, weakness in unsafe:
    print(f"{name}: {weakness}")
if skipped:
    print(f"not audited: {', '.join(skipped)} are unknown to the service that answered")
sys.exit(1 if unsafe else 3 if skipped else 0)
PYTHON
