//go:build tools

// Package programs names what is built, so that `go mod tidy` keeps it.
package programs

import _ "sigs.k8s.io/kueue/cmd/kueue"
