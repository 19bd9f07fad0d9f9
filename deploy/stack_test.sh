#!/usr/bin/env bash
# Build the container stack, start it, run client_example.py against it, and take it down again.
#
# Needs a container engine with Compose, and Python 3. Without an engine it says so in one line that
# begins with SKIP, and its exit status is 0. What it starts has a project name, a port and an API
# key of its own, and is removed together with its volumes and images; the images it was built from
# and the builder's cache stay.
#
# From the environment: MODEL_NAME, and TORCH for the build of the worker, see docker-compose.yml.
set -euo pipefail
cd "$(dirname "$0")/.."

API_LAYERS_LIMIT_MB=300
START_LIMIT_S=300
CLIENT_LIMIT_S=180

skip() {
  echo "SKIP: the stack test needs a container engine: $*"
  exit 0
}
fail() {
  echo "FAIL: $*" >&2
  exit 1
}
say() { echo "== $*"; }

command -v docker >/dev/null || skip "there is no docker command"
docker info >/dev/null 2>&1 || skip "the docker daemon does not answer"
if docker compose version >/dev/null 2>&1; then
  engine=(docker compose)
elif command -v docker-compose >/dev/null; then
  engine=(docker-compose)
else
  skip "there is neither docker compose nor docker-compose"
fi
python=.venv/bin/python
[ -x "$python" ] || python=python3
command -v "$python" >/dev/null || fail "there is no python3 to run the client with"

project=baton-stack-test-$$
API_KEY=$("$python" -c 'import secrets; print(secrets.token_hex(16))')
PORT=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
BASE_URL=http://127.0.0.1:$PORT
API_KEYS=$API_KEY MODEL_NAME=${MODEL_NAME:-baton-toy}
NO_PROXY=127.0.0.1${NO_PROXY:+,$NO_PROXY} no_proxy=127.0.0.1${no_proxy:+,$no_proxy}
export API_KEY API_KEYS BASE_URL MODEL_NAME NO_PROXY PORT no_proxy

compose() { "${engine[@]}" -p "$project" -f docker-compose.yml "$@"; }

take_down() {
  status=$?
  trap - EXIT
  if [ "$status" != 0 ]; then
    compose ps >&2 || true
    compose logs --tail 60 >&2 || true
  fi
  say "taking the stack down"
  compose down --volumes --rmi local --timeout 20 >/dev/null 2>&1 || echo "cannot take $project down" >&2
  [ "$status" != 0 ] || say "passed"
  exit "$status"
}

# Ask until the answer is yes. Arguments: what for, and the command that asks.
await() {
  local what=$1 deadline=$((SECONDS + START_LIMIT_S))
  shift
  until "$@"; do
    ((SECONDS < deadline)) || fail "$what took longer than $START_LIMIT_S s"
    sleep 1
  done
}

is_ready() {
  "$python" - "$BASE_URL/ready" 2>/dev/null <<'PYTHON'
import sys, urllib.request
urllib.request.urlopen(sys.argv[1], timeout=5)
PYTHON
}

# Whether as many containers of a service are there as expected, and all of them healthy.
are_healthy() {
  local service=$1 expected=$2 ids
  ids=$(compose ps -q "$service")
  [ "$(wc -w <<<"$ids")" = "$expected" ] &&
    [ "$(docker inspect -f '{{.State.Health.Status}}' $ids | grep -cx healthy)" = "$expected" ]
}

# The size in MB of the layers that our Dockerfile adds; the label is the first of them.
layers_mb() {
  docker history --human=false --no-trunc --format '{{.Size}} {{.CreatedBy}}' "$1" | awk '
    { sum += $1 }
    /LABEL org.opencontainers.image.title/ { found = 1; exit }
    END { if (!found) exit 1; printf "%d\n", sum / 1000000 }'
}

run_client() {
  "$python" - "$CLIENT_LIMIT_S" <<'PYTHON'
import subprocess, sys
try:
    sys.exit(subprocess.run([sys.executable, "client_example.py"], timeout=int(sys.argv[1])).returncode)
except subprocess.TimeoutExpired:
    sys.exit(f"FAIL: client_example.py took longer than {sys.argv[1]} s")
PYTHON
}

image_of() { docker inspect -f '{{.Image}}' "$(compose ps -q "$1" | head -n 1)"; }

trap take_down EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

say "building and starting with ${engine[*]}"
compose up -d --build
await "the start" is_ready
await "the gateway's healthcheck" are_healthy api 1
await "the worker's healthcheck" are_healthy worker 1

say "the client against one worker"
run_client

say "what the images hold"
api_mb=$(layers_mb "$(image_of api)") || fail "the api image has no label of ours"
worker_mb=$(layers_mb "$(image_of worker)") || fail "the worker image has no label of ours"
echo "layers above the base image: api $api_mb MB, worker $worker_mb MB"
((api_mb < API_LAYERS_LIMIT_MB)) || fail "the api image adds more than $API_LAYERS_LIMIT_MB MB"
compose exec -T api python -c 'import importlib.util as u, sys; sys.exit(u.find_spec("torch") is not None)' ||
  fail "the api image holds torch"
for service in api worker; do
  [ "$(compose exec -T "$service" id -u)" != 0 ] || fail "$service runs as root"
done
compose exec -T api test -s /var/log/baton/app.log || fail "the gateway has not written its log"

say "the client against two workers"
compose up -d --no-build --scale worker=2
await "the second worker" are_healthy worker 2
run_client
