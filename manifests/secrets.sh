#!/bin/sh
# Print the Secrets that the platform needs, with fresh random values:
#
#   manifests/secrets.sh [RUN_NAMESPACE...] | kubectl create -f -
#
# RUN_NAMESPACE: where steps run; kubeflow if none is given. `create`, not `apply`: it refuses to replace
# a Secret that exists, and a database does not take a new password for an old one.
set -eu
umask 077

random() {
    head -c "$1" /dev/urandom | od -An -v -tx1 | tr -d ' \n'
}

secret() { # NAMESPACE NAME COMPONENT; the keys follow on standard input
    cat <<END
---
apiVersion: v1
kind: Secret
metadata:
  name: $2
  namespace: $1
  labels:
    app.kubernetes.io/name: $2
    app.kubernetes.io/part-of: crucible
    app.kubernetes.io/managed-by: secrets.sh
    app.kubernetes.io/component: $3
type: Opaque
stringData:
$(sed 's/^/  /')
END
}

[ $# -gt 0 ] || set -- kubeflow
store_keys="AWS_ACCESS_KEY_ID: \"$(random 10)\"
AWS_SECRET_ACCESS_KEY: \"$(random 20)\""
for namespace in crucible-system "$@"; do
    echo "$store_keys" | secret "$namespace" crucible-store artifact-store
done
echo "password: \"$(random 20)\"" | secret crucible-system crucible-postgres database
