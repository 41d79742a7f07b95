#!/usr/bin/env bash
# curl, as crew.py: workers that send POSTs over connections which each process of curl keeps, half of them
# busy, half mostly idle, until standard input is closed; a line of JSON now and then.
#
#   curl.sh URL [OPTION OF CURL]…
#
# libcurl repeats a request by itself, a POST too, where a connection that was used before has died without a byte of an
# answer, and no option tells it not to. It says so with --verbose, so that it is counted here: as failed over HTTP/1,
# where a lost request may have been served; as refused over HTTP/2, whose GOAWAY says that it was not.
set -uo pipefail

url=$1
shift
options=("$@")
http2=false
[[ " $* " == *" --http2"* ]] && http2=true

# Before 8.0 curl spoils an h2c connection by using it again, whatever the server does: then one request for each process.
reuse=true
version=$(curl --version | sed -n '1s/^curl \([0-9]*\).*/\1/p')
[[ " $* " == *" --http2-prior-knowledge "* && $version -lt 8 ]] && reuse=false

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
touch "$work/go-on"
payload='one payload of many'

ask() { # ask WORKER REQUESTS [OPTION]…
  local worker=$1 requests=$2
  shift 2
  curl --silent --verbose --noproxy '*' --max-time 20 "${options[@]}" "$@" \
    --data "$payload" --output /dev/null --write-out '%{http_code} %{size_download} %{exitcode} %{errormsg}\n' \
    "$url?[1-$requests]" 2>&1 >> "$work/answers.$worker" \
    | grep --text 'retrying a fresh connect' >> "$work/repeated.$worker"
}

busy() {
  local parallel=()
  local requests=300
  $reuse || requests=1
  $http2 && $reuse && parallel=(--parallel --parallel-max 4)
  while [ -e "$work/go-on" ]; do ask "$1" $requests "${parallel[@]}"; done
}

idle() {
  local requests=8
  $reuse || requests=1
  while [ -e "$work/go-on" ]; do
    ask "$1" $requests --rate 3/s
    $reuse || sleep 0.3
  done
}

tell() {
  awk -v size=${#payload} -v http2=$http2 '
    FILENAME ~ /repeated/ { repeated += /Connection died/; next }
    $1 == 200 && $2 == size && $3 == 0 { done++; next }
    { failed++; if (failed <= 20) { gsub(/["\\]/, ""); failures = failures sprintf("%s\"%s\"", failures ? ", " : "", $0) } }
    END {
      if (http2 == "false" && repeated) {
        failed += repeated
        failures = failures sprintf("%s\"%d repeated by curl itself\"", failures ? ", " : "", repeated)
      }
      printf "{\"done\": %d, \"failed\": %d, \"refused\": %d, \"failures\": [%s]}\n",
        done, failed, http2 == "true" ? repeated : 0, failures
    }' /dev/null "$work"/answers.* "$work"/repeated.* 2> /dev/null
}

for worker in 1 2 3 4 5 6; do
  busy "$worker" < /dev/null &
  idle "1$worker" < /dev/null &
done
# A timeout is above 128; anything else is the end.
while read -r -t 0.5 _; [ $? -gt 128 ]; do tell; done
rm "$work/go-on"
wait
tell
