package archive

import (
	"encoding/binary"
	"math"
	"math/bits"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// packed returns numbers in the encoding DELTA_BINARY_PACKED, with blocks of that many numbers in
// pieces.
func packed(numbers []int64, block, pieces int) []byte {
	b := binary.AppendUvarint(nil, uint64(block))
	b = binary.AppendUvarint(b, uint64(pieces))
	b = binary.AppendUvarint(b, uint64(len(numbers)))
	if len(numbers) == 0 {
		return binary.AppendVarint(b, 0)
	}
	b = binary.AppendVarint(b, numbers[0])
	var differences []int64
	for i, n := range numbers[1:] {
		differences = append(differences, n-numbers[i])
	}
	for in := range slices.Chunk(differences, block) {
		least := slices.Min(in)
		b = binary.AppendVarint(b, least)
		widths := make([]byte, pieces)
		var data []byte
		i := 0
		for piece := range slices.Chunk(in, block/pieces) {
			most := uint64(0)
			for _, n := range piece {
				most = max(most, uint64(n-least))
			}
			widths[i] = byte(bits.Len64(most))
			var all []byte // a byte for each bit, from the lowest on
			for k := range block / pieces {
				n := uint64(0)
				if k < len(piece) {
					n = uint64(piece[k] - least)
				}
				for bit := range widths[i] {
					all = append(all, byte(n>>bit&1))
				}
			}
			for eight := range slices.Chunk(all, 8) {
				c := byte(0)
				for bit, set := range eight {
					c |= set << bit
				}
				data = append(data, c)
			}
			i++
		}
		b = append(append(b, widths...), data...)
	}
	return b
}

func TestDeltas(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for range 2000 {
		var want []int64
		for range random.IntN(400) {
			n := random.Int64() >> random.IntN(64)
			if random.IntN(2) == 0 {
				n = -n
			}
			if random.IntN(50) == 0 {
				n = math.MinInt64
			}
			want = append(want, n)
		}
		shape := [][2]int{{128, 4}, {128, 1}, {256, 8}, {8, 1}, {1024, 4}}[random.IntN(5)]
		b := append(packed(want, shape[0], shape[1]), "rest"...)
		got, rest, err := deltas(b, 400)
		require.NoError(t, err)
		require.Equal(t, want, got)
		require.Equal(t, "rest", string(rest))
		_, _, err = deltas(b[:random.IntN(len(b)-len("rest"))], 400)
		require.Equal(t, errDamaged, err)
	}
	_, _, err := deltas(packed(make([]int64, 401), 128, 4), 400)
	require.ErrorAs(t, err, new(UncheckedError))
}

// prefixedPage returns a file with one page of texts, of which each begins with so many bytes of the
// one before.
func prefixedPage(shared []int64, rests []string) []byte {
	var lengths []int64
	for _, s := range rests {
		lengths = append(lengths, int64(len(s)))
	}
	data := string(packed(shared, 128, 4)) + string(packed(lengths, 128, 4)) + strings.Join(rests, "")
	return pagesOf(1, codecNone, pageHeader(len(data), len(data), encodingDeltaBytes), data)
}

// Texts that begin as the ones before take few bytes in the file.
func TestPrefixedTexts(t *testing.T) {
	in := searches(secret)
	in.bounds = smallBounds
	clean := prefixedPage([]int64{0, 5, 3}, []string{secret[:5] + "x", secret[5:7], "x"})
	require.Equal(t, result{why: "a parquet file"}, in.look(t, clean))
	require.Equal(t, map[string]int{"A": 1},
		in.look(t, prefixedPage([]int64{0, 5}, []string{secret[:5] + "x", secret[5:]})).found)

	const damaged = "damaged: a parquet file"
	require.Equal(t, damaged, in.look(t, prefixedPage([]int64{1}, []string{"x"})).why)
	require.Equal(t, damaged, in.look(t, prefixedPage([]int64{0, -1}, []string{"x", "y"})).why)
	require.Equal(t, damaged, in.look(t, prefixedPage([]int64{0}, []string{"x", "y"})).why)

	long := strings.Repeat("x", 60_000)
	shared, rests := slices.Repeat([]int64{60_000}, 1000), make([]string, 1000)
	shared[0], rests[0] = 0, long
	require.Equal(t, "it expands to more than 32 MiB and 2 times its size", in.look(t, prefixedPage(shared, rests)).why)
	require.Equal(t, result{why: "a parquet file"}, in.look(t, prefixedPage(shared[:500], rests[:500])))
	// A million numbers without bits take a few bytes.
	shared, rests = make([]int64, 1<<20), make([]string, 1<<20)
	file := prefixedPage(shared, rests)
	grew := heap(func() {
		require.Equal(t, "a page of a parquet file in it has too many texts", in.look(t, file).why)
	})
	require.Less(t, grew, uint64(64<<20))
}
