//go:build race

package outputs

const raced = true
