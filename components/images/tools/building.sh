# Sourced by the scripts of this folder. $tools is the environment with uv and what else builds an
# image, made on first use. It lives in the builder's cache, so nothing of it stays in a layer.
set -eu
umask 022
export PYTHONHASHSEED=0 SOURCE_DATE_EPOCH="${SOURCE_DATE_EPOCH:-315532800}"
images=/usr/share/crucible/images
cache=/build-cache
site='import sysconfig; print(sysconfig.get_path("purelib"))'
stdlib='import sysconfig; print(sysconfig.get_path("stdlib"))'

# The way to the package index, where it is not the plain one.
if [ -s /run/secrets/ca ]; then
    export SSL_CERT_FILE=/run/secrets/ca PIP_CERT=/run/secrets/ca
fi
if [ -s /run/secrets/index ]; then
    UV_DEFAULT_INDEX=$(cat /run/secrets/index)
    export UV_DEFAULT_INDEX PIP_INDEX_URL="$UV_DEFAULT_INDEX"
fi
if [ -s /run/secrets/netrc ]; then
    export NETRC=/run/secrets/netrc
fi

make_tools() {
    python3 -m venv --clear "$tools"
    "$tools/bin/pip" install --quiet --disable-pip-version-check --cache-dir "$cache/pip" \
        --require-hashes --only-binary :all: -r "$images/tools/requirements.txt"
    touch "$tools/complete"
}

tools=$cache/tools-$( (python3 -VV && command -v python3 && cat "$images/tools/requirements.txt") |
    sha256sum | cut -c 1-16)
(
    flock 9 # another build may be making the same
    [ -e "$tools/complete" ] || make_tools
) 9>"$tools.lock"

# Compile what was written below the folder $1 since the file $2 was, all of it without $2.
# Bytecode by hash: a builder may set all times, after which bytecode by time would be out of date.
# What does not compile is a template that some package carries.
compile_bytecode() {
    find "$1" -name '*.py' ${2:+-cnewer "$2"} -print | LC_ALL=C sort |
        python3 -m compileall -qq -j 0 --invalidation-mode unchecked-hash -i - || true
}
