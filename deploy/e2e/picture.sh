#!/usr/bin/env bash
# Draws terminals as an SVG, one below the other.
#   picture.sh TITLE FILE [TITLE FILE...]     each FILE has what a terminal shows: commands after "$ ", and outputs
# The same files give the same bytes.
set -euo pipefail

while [ $# -gt 0 ]; do
  printf '#%s\n' "$1"
  cat "$2"
  shift 2
done | sed 's/&/\&amp;/g; s/</\&lt;/g' | awk '
  /^#/ { y += 34; lines = lines sprintf("<text class=\"title\" x=\"16\" y=\"%d\">%s</text>\n", y, substr($0, 2)); next }
  {
    y += 20
    if (length($0) > wide) wide = length($0)
    lines = lines sprintf("<text%s x=\"16\" y=\"%d\">%s</text>\n", /^\$ / ? " class=\"command\"" : "", y, $0)
  }
  END {
    width = 32 + 8.5 * wide; height = y + 18
    printf "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" viewBox=\"0 0 %d %d\" role=\"img\">\n", width, height, width, height
    print "<style>rect { fill: #16181d } text { font: 14px monospace; fill: #d8dee9; white-space: pre }"
    print ".title { font-weight: bold; fill: #ebcb8b } .command { fill: #a3be8c }</style>"
    print "<rect width=\"100%\" height=\"100%\" rx=\"6\"/>"
    printf "%s</svg>\n", lines
  }'
