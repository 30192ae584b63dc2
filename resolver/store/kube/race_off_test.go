//go:build !race

package kube_test

const raced = false
