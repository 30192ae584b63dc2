package annotation_test

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"inject/internal/annotation"
	"inject/resolver/secret"
)

// Four declarations, as Flyte's own marshaler (v2.0.43) writes them.
var annotations = []struct {
	d    secret.Declaration
	text string
}{
	{
		secret.Declaration{Key: "MY_SECRET_KEY", Mount: secret.EnvVar, EnvVar: "MY_SECRET_ENV_VAR"},
		"nnsxsoraejgvsx1tivbverkul4fukwjcbjww54loorpxezlrovuxezlnmvxhioraivhfmx1wifjauzloozpxmylshiqcetkzl4jukq1siv" +
			"kf5rkokzpvmqkseifa",
	},
	{
		secret.Declaration{Key: "db-config", Mount: secret.File},
		"nnsxsoraejsgelldn4xgm1lheifg122vnz1f53tfof1ws3tfnvsw34b1ebdestcfbi",
	},
	{
		secret.Declaration{Group: "aws", Key: "s3-token", Mount: secret.EnvVar, EnvVar: "AWS_S3_TOKEN"},
		"m4zg54lqhiqceylxomrau12fpe4caittgmwxi22lmvxcectnn41w34c6ojsxc4ljojsw1zlooq4carkokzpvmqksbjsw34s6ozqxeoraej" +
			"avou16kmzv5vcpjncu3iqk",
	},
	{secret.Declaration{Key: "my_key"}, "nnsxsoraejwxsx2lmv3secq"},
}

func TestFlytes(t *testing.T) {
	for _, a := range annotations {
		require.Equal(t, a.text, annotation.Encode(a.d))
		d, err := annotation.Decode(a.text)
		require.NoError(t, err)
		require.Equal(t, a.d, d)
	}
}

// A declaration survives being written and read, with any text as its group and version.
func TestBothWays(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := secret.Declaration{
			Group: rapid.String().Draw(t, "group"), Version: rapid.String().Draw(t, "version"),
			Key:    rapid.StringMatching(`[-a-zA-Z0-9_]{1,80}`).Draw(t, "key"),
			Mount:  secret.Mount(rapid.IntRange(0, 2).Draw(t, "mount")),
			EnvVar: rapid.StringMatching(`V[A-Z0-9_]{0,9}`).Draw(t, "variable"),
		}
		got, err := annotation.Decode(annotation.Encode(want))
		if err != nil {
			t.Fatal(err)
		}
		if got != want {
			t.Fatalf("%+v became %+v", want, got)
		}
	})
}

var b32 = "abcdefghijklmnopqrstuvwxyz123456"

// encode returns text in Flyte's base32, by a plain second implementation.
func encode(text string) string {
	var bits, out strings.Builder
	for i := range len(text) {
		fmt.Fprintf(&bits, "%08b", text[i])
	}
	all := bits.String()
	for len(all)%5 != 0 {
		all += "0"
	}
	for i := 0; i < len(all); i += 5 {
		n, _ := strconv.ParseUint(all[i:i+5], 2, 8)
		out.WriteByte(b32[n])
	}
	return out.String()
}

func TestBad(t *testing.T) {
	require.Equal(t, annotations[3].text, encode("key: \"my_key\"\n"), "the plain encoder is Flyte's")
	for text, want := range map[string]string{
		"":                                                    "the key is empty",
		"nnsxsoraejwxsx2lmv3secQ":                             "not Flyte's base32",
		"NNSXSORAEJWXSX2LMV3SECQ=":                            "not Flyte's base32",
		"nnsxsoraejwx\nsx2lmv3secq":                           "not Flyte's base32",
		"7890":                                                "not Flyte's base32",
		encode("hunter2 is no text proto"):                    "not a Secret of Flyte's in protobuf's text format",
		encode(`key: "hunter2`):                               "not a Secret of Flyte's in protobuf's text format",
		encode(`key: 1`):                                      "not a Secret of Flyte's in protobuf's text format",
		encode(`key: "k" owner: "hunter2"`):                   "it has an unknown field",
		encode(`key: "k" mount_requirement:9`):                "mount requirement 9 is unknown",
		encode(`key: "a/../../b"`):                            "the key has '/'",
		encode(`key: "k" env_var: "LD_PRELOAD"`):              "LD_PRELOAD",
		encode(`key: "k" env_var: "INJECT_STORE"`):            "INJECT_STORE",
		encode(`key: "k" env_var: "PATH"`):                    "PATH",
		encode(`key: "k" env_var: "hunter2-"`):                "not the name of a variable",
		encode(`key: "` + strings.Repeat("k", 256<<10) + `"`): "more than Kubernetes accepts",
	} {
		_, err := annotation.Decode(text)
		require.ErrorIs(t, err, secret.ErrInvalid)
		require.ErrorContains(t, err, want)
		require.NotContains(t, err.Error()+secret.Hint(err), "hunter2")
	}
	// Everything that protobuf's decoder allows: other quotes, joined texts, comments, enums as
	// numbers.
	d, err := annotation.Decode(encode("# a comment\nkey: 'my' \"_key\"; mount_requirement: 2,env_var:'X'"))
	require.NoError(t, err)
	require.Equal(t, secret.Declaration{Key: "my_key", Mount: secret.File, EnvVar: "X"}, d)
}

func FuzzAnnotation(f *testing.F) {
	for _, a := range annotations {
		f.Add(a.text)
	}
	f.Add(encode(`key: "k" mount_requirement: 2`))
	f.Fuzz(func(t *testing.T, text string) {
		d, err := annotation.Decode(text)
		if err != nil {
			return
		}
		if err := d.Validate(); err != nil {
			t.Fatalf("accepted %+v: %v", d, err)
		}
		again, err := annotation.Decode(annotation.Encode(d))
		if err != nil || again != d {
			t.Fatalf("%+v became %+v, %v", d, again, err)
		}
	})
}

// The value of an annotation with which a pod of Flyte declares a secret, both ways.
func ExampleDecode() {
	d, err := annotation.Decode("nnsxsoraejwxsx2lmv3secq")
	fmt.Println(d.Key, d.Mount, err)
	fmt.Println(annotation.Encode(d))
	// Output:
	// my_key ANY <nil>
	// nnsxsoraejwxsx2lmv3secq
}
