#!/usr/bin/env bash
# The whole pipeline on 100,004 MovieLens ratings, by the commands that anybody's data takes.
# Run it as make demo. Spark's own chatter goes to build/demo.log; what the jobs say is shown.
set -euo pipefail
cd "$(dirname "$0")/.."

yaml=conf/movielens.yaml
log=build/demo.log
mkdir -p build && : >"$log"
started=$SECONDS

run() {
    printf '\n\033[1m$ %s\033[0m\n' "$*"
    "$@" 2> >(tee -a "$log" | sed -un 's/^\[0\]<stderr>://p; /^error: /p') |
        tee -a "$log" | sed -u 's/^\[[0-9]*\]<stdout>://'
}

submit=(spark-submit --properties-file conf/spark.conf)

run python tools/movielens.py build/movielens/raw/ratings.parquet
run "${submit[@]}" jobs/prepare.py $yaml
run horovodrun -np 2 python jobs/train.py $yaml model.name=fm
run horovodrun -np 2 python jobs/train.py $yaml model.name=fwfm
run horovodrun -np 2 python jobs/train.py $yaml
run "${submit[@]}" jobs/evaluate.py $yaml
run "${submit[@]}" jobs/score.py $yaml

cat <<END

Done in $((SECONDS - started)) s. Everything lies in build/movielens:
  $(cd build/movielens && ls -d -- */ | tr -d '/' | tr '\n' ' ')
Ask the tables, in Python (source .venv/bin/activate first):

  from deltalake import DeltaTable
  scores = DeltaTable("build/movielens/scores").to_pandas()
  items = DeltaTable("build/movielens/items").to_pandas()
  print(scores[scores.user_key == 1].merge(items)[["rank", "title", "probability"]])

or in Spark SQL:

  SELECT rank, title, probability, explanation
  FROM delta.\`$PWD/build/movielens/scores\` JOIN delta.\`$PWD/build/movielens/items\` USING (item_key)
  WHERE user_key = 1 ORDER BY rank

or look at all of it: make report writes build/movielens/report.html
END
