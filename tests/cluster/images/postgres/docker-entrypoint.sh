#!/bin/sh
# The official image's contract: POSTGRES_USER, POSTGRES_PASSWORD, POSTGRES_DB and their
# *_FILE forms, PGDATA, /docker-entrypoint-initdb.d; a database is made where there is none.
set -e
for v in POSTGRES_USER POSTGRES_PASSWORD POSTGRES_DB; do
  eval "f=\${${v}_FILE:-}"
  # shellcheck disable=SC2154 # set by the eval above
  [ -z "$f" ] || export "$v=$(cat "$f")"
done
: "${PGDATA:=/var/lib/postgresql/data}" "${POSTGRES_USER:=postgres}"
: "${POSTGRES_DB:=$POSTGRES_USER}"
export PGDATA
[ "${1#-}" = "$1" ] || set -- postgres "$@"
if [ "$1" = postgres ]; then
  if [ "$(id -u)" = 0 ]; then
    mkdir -p "$PGDATA" /var/run/postgresql
    chown postgres "$PGDATA" /var/run/postgresql
    chmod 700 "$PGDATA"
    exec setpriv --reuid=postgres --regid=postgres --init-groups "$0" "$@"
  fi
  if [ ! -s "$PGDATA/PG_VERSION" ]; then
    [ -n "$POSTGRES_PASSWORD" ] || { echo "POSTGRES_PASSWORD is not set" >&2; exit 1; }
    mkdir -p "$PGDATA"
    umask 077
    printf '%s' "$POSTGRES_PASSWORD" >/tmp/pw
    initdb --encoding=UTF8 --locale=C.UTF-8 -U "$POSTGRES_USER" --pwfile=/tmp/pw --auth-host=scram-sha-256 --auth-local=trust >/dev/null
    rm -f /tmp/pw
    echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
    echo "listen_addresses = '*'" >>"$PGDATA/postgresql.conf"
    pg_ctl -w start -o "-c listen_addresses='' -k /tmp" >/dev/null
    [ "$POSTGRES_DB" = postgres ] || psql -q -h /tmp -U "$POSTGRES_USER" -d postgres -c "create database \"$POSTGRES_DB\""
    for f in /docker-entrypoint-initdb.d/*; do
      case $f in
        *.sql) psql -q -v ON_ERROR_STOP=1 -h /tmp -U "$POSTGRES_USER" -d "$POSTGRES_DB" -f "$f" ;;
        *.sh)
          export PGHOST=/tmp
          # shellcheck disable=SC1090 # the user's own file
          . "$f"
          unset PGHOST
          ;;
      esac
    done
    pg_ctl -w stop -m fast >/dev/null
  fi
fi
exec "$@"
