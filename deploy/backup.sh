#!/bin/sh
# Backs up a compose deployment while it runs, and rebuilds one from it where there is none:
#
#   deploy/backup.sh back-up DATA KEYS    two new folders; neither opens anything without the other
#   deploy/backup.sh restore DATA KEYS    before anything was started; then `docker compose up --detach --wait`
#
# Run it where docker-compose.yml is; COMPOSE_FILE, COMPOSE_PROJECT_NAME and .env count as always. Databases are copied
# each at one moment, those that ask before those that are asked, and blobs after the rows that name them. Sites' own
# state is not in it: it belongs to the sites.
set -eu
umask 077

databases="coordinator aggregator helper registry keys"
blobs="aggregator-api registry-api"
processes="coordinator-api aggregator-api registry-api keys-api keys-helper"
folder=/var/lib/undersong

say() { printf '%s\n' "$*" >&2; }
refuse() {
  say "backup: $*"
  exit 1
}
within() { docker compose exec -T "$@"; }
pack() { # pack SERVICE WORDS: what tar says of files that changed or went meanwhile, as those of ended rounds do, is 1
  service=$1
  shift
  within "$service" tar -C "$folder" "$@" -cf - . || [ "$?" -eq 1 ]
}
once() { docker compose run --rm -T --no-deps "$@"; }

back_up() {
  [ ! -e "$data" ] && [ ! -e "$keys" ] || refuse "$data or $keys exists already: each backup goes into new folders"
  mkdir -p "$data.partial" "$keys.partial"
  for name in $databases; do
    say "database $name"
    within postgres pg_dump -U postgres --format=custom "$name" >"$data.partial/$name.dump"
  done
  for service in $blobs; do
    say "blobs of $service"
    pack "$service" --exclude=./blobs/incoming --exclude='./[!b]*' >"$data.partial/$service.tar"
  done
  for service in $processes; do # identities and tokens; without keys' high-water mark, by which it knows a restore
    pack "$service" --exclude=./blobs --exclude=./high-water --exclude=./openings >"$keys.partial/$service.tar"
  done
  say "secrets"
  once secrets sh -c 'cd /secrets && exec tar -cf - $(ls -d [!h]* helper handout/*)' >"$keys.partial/secrets.tar" # volumes
  for part in "$data.partial" "$keys.partial"; do (cd "$part" && sha256sum -- * >SHA256SUMS); done
  for service in $processes; do
    within "$service" touch "$folder/last-backup"
  done
  mv "$data.partial" "$data"
  mv "$keys.partial" "$keys"
  say "backed up: $data, and $keys, which is to be kept elsewhere"
}

restore() {
  for part in "$data" "$keys"; do
    (cd "$part" && sha256sum --quiet --check SHA256SUMS) || refuse "$part is not what was backed up, or no backup"
  done
  [ -z "$(docker compose ps --all --quiet)" ] || refuse "there is a deployment already: restore before anything is started"
  once secrets tar -C /secrets -xpf - <"$keys/secrets.tar"
  docker compose up --detach --wait --no-build postgres
  docker compose run --rm -T databases
  for name in $databases; do
    say "database $name"
    within postgres pg_restore -U postgres --exit-on-error --clean --if-exists -d "$name" <"$data/$name.dump"
  done
  for service in $processes; do
    once --entrypoint tar "$service" -C "$folder" -xpf - <"$keys/$service.tar"
  done
  for service in $blobs; do
    say "blobs of $service"
    once --entrypoint tar "$service" -C "$folder" -xpf - <"$data/$service.tar"
  done
  once coordinator-api bump-epoch     # agents refuse what they may have answered since
  once keys-helper helper-restored    # and the helper what it may have opened
  for service in $processes; do
    once --entrypoint touch "$service" "$folder/last-restore"
  done
  say "restored; next: docker compose up --detach --wait"
}

[ "$#" -eq 3 ] || refuse "say back-up or restore, and the folders DATA and KEYS"
data=${2%/} keys=${3%/}
case "$1" in
  back-up) back_up ;;
  restore) restore ;;
  *) refuse "say back-up or restore" ;;
esac
