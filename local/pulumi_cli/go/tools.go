//go:build tools

// Package tools pins the pulumi CLI that the local stack builds where none is installed.
package tools

import _ "github.com/pulumi/pulumi/pkg/v3/cmd/pulumi"
