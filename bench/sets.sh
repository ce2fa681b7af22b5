#!/usr/bin/env bash
# Fetch the public sets that the recipe is judged on, and pack each of them with five folds, as DIR/NAME.
#
#   bash bench/sets.sh DIR                     # all of them, 200 MB
#   bash bench/sets.sh DIR leaf_lesions cats   # some of them
#
# The recipe was made on salt, nuclei and synthetic sets. Of the sets below, decided before the first run on any of them,
# two may be used to improve its rules, and three only judge it. None of them is part of this project.
#
#   name           use    images  size       foreground  licence        what
#   road_potholes  tune      372  1024x640        2.2 %  MIT            potholes in colour photos of the road ahead
#   cats           tune      296  640x640        19   %  MIT            cats in colour photos
#   leaf_lesions   judge     500  2048x1024       1.3 %  MIT            lesions on coffee leaves, colour
#   aerial_roads   judge     100  400x400        20   %  MIT            roads from the air, colour
#   melt_pools     judge     231  512x512         7   %  MIT            etched melt pools in printed metal, grey
#
# GITHUB=/path/to/mirrors replaces the address of the repositories.
set -euo pipefail
[ $# -gt 0 ] || { echo "usage: bash bench/sets.sh DIR [NAME ...]" >&2; exit 2; }
project=$(cd "$(dirname "$0")/.." && pwd)
out=$1; shift
mkdir -p "$out"

sets="
road_potholes biankatpas/Cracks-and-Potholes-in-Road-Images-Dataset 1f200541d2e88596fb9dcd91f4262c1ac5f6202e Dataset
cats pcashman21/feral-cat-segmentation-dataset-and-model c7cdfa43c095a1f9d1892754bcc201e971e375f1 feral-cat-segmentation.v1i.yolov8/valid feral-cat-segmentation.v1i.yolov8/test
leaf_lesions esgario/lara2018 a6c38b693094c2c4da4b82029fc8be7058506a16 segmentation/dataset
aerial_roads aschneuw/road-segmentation-unet 5411dea1a4618a13ac10f991d8b56b40dadccb87 data/training
melt_pools nasa/pretrained-microscopy-models f50b5689a71cf6f86016fb4a5c5a2bb31e0397f3 instance_segmentation/data
"
for name in "$@"; do
  grep -q "^$name " <<<"$sets" || { echo "$name: no such set; expected one of $(cut -d' ' -f1 <<<"$sets" | xargs)" >&2; exit 2; }
done

while read -r name repository commit paths <&3; do
  [ -n "$name" ] || continue
  [[ $# = 0 || " $* " = *" $name "* ]] || continue
  [ ! -f "$out/$name/folds.csv" ] || continue
  if [ ! -d "$out/$name/train" ]; then
    clone=$out/.clones/$name
    git init -q "$clone"
    git -C "$clone" config gc.auto 0 # a repacking in the background would still write when the clone is removed
    git -C "$clone" remote add origin "${GITHUB:-https://github.com}/$repository" 2>/dev/null || true
    git -C "$clone" fetch -q --depth 1 --filter=blob:none origin "$commit" # files come only for the paths below
    read -ra paths <<<"$paths"
    git -C "$clone" checkout -q FETCH_HEAD -- "${paths[@]}"
    rm -rf "$out/$name.part"
    python "$project/bench/lay_out_set.py" --set "$name" --clone "$clone" --out "$out/$name.part"
    mv "$out/$name.part" "$out/$name"
    rm -rf "$clone"
  fi
  python "$project/utils/stack_and_save.py" --data_dir "$out/$name"
  python "$project/utils/make_folds.py" --path "$out/$name/train.csv" --n_splits 5 --stratify coverage
done 3<<<"$sets"
