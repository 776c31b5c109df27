#!/usr/bin/env bash
# Gets Apache Spark and Java for the tests and benchmarks marked `java`.
#
#   scripts/spark.sh
#
# Spark comes whole in the package pyspark, which has the same import name as the client in .venv:
# it is unpacked to .spark, never installed. About 500 MB; a minute or two.
set -euo pipefail

# shellcheck source-path=SCRIPTDIR source=environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

command -v java >/dev/null || apt_install openjdk-17-jre-headless || fail \
    "Java 17 is missing" "Debian, Ubuntu:  sudo apt-get install openjdk-17-jre-headless"
ensure_venv
if [[ ! -x $repository/.spark/pyspark/bin/spark-submit ]]; then
    say "Fetching Apache Spark into .spark ..."
    "$venv/bin/python" -m pip install --disable-pip-version-check --no-input --progress-bar off \
        --quiet --no-deps --target "$repository/.spark" 'pyspark>=4.1,<5'
fi
say "$repository/.spark/pyspark"
