#!/bin/sh
# Write the bill of materials of the image of the set $1, in which this runs.
. /usr/share/crucible/images/tools/building.sh
PYTHONPATH=$(/opt/crucible/bin/python3 -c "$site")
export PYTHONPATH
"$tools/bin/python3" -B -m crucible.images.sbom "$1"
