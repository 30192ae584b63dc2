//go:build !race

package outputs

const raced = false
