package serve

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"regexp"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// messageOptions are the options by which handlers read what they are sent: as much as a message
// may have, and without repeating any of it.
func messageOptions() connect.HandlerOption {
	return connect.WithHandlerOptions(
		connect.WithReadMaxBytes(maxMessage),
		connect.WithCompression("gzip", func() connect.Decompressor { return &inflater{} }, func() connect.Compressor { return gzip.NewWriter(io.Discard) }),
		connect.WithCodec(jsonCodec("json")),
		connect.WithCodec(jsonCodec("json; charset=utf-8")),
	)
}

// An inflater ends where a message has become too large. The library would go on to its
// end only to tell its length: of a small body some gigabytes.
type inflater struct {
	gzip.Reader

	left int
}

var errTooLong = errors.New("it is not read on")

// Read implements [io.Reader].
func (i *inflater) Read(p []byte) (int, error) {
	if i.left == 0 {
		return 0, errTooLong
	}
	n, err := i.Reader.Read(p[:min(len(p), i.left)])
	i.left -= n
	return n, err
}

// Reset implements [connect.Decompressor].
func (i *inflater) Reset(r io.Reader) error {
	i.left = maxMessage + 1 // by which the library knows that it is too large
	return i.Reader.Reset(r)
}

// jsonCodec is the library's, under its name, but for its errors: they quote what they do
// not understand, and that may be a value.
type jsonCodec string

// Name implements [connect.Codec].
func (c jsonCodec) Name() string { return string(c) }

// Marshal implements [connect.Codec].
func (jsonCodec) Marshal(message any) ([]byte, error) {
	m, ok := message.(proto.Message)
	if !ok {
		return nil, fmt.Errorf("%T is no message", message)
	}
	return protojson.Marshal(m)
}

// jsonPosition is where the library says that a mistake is.
var jsonPosition = regexp.MustCompile(`\(line \d+:\d+\)`)

// Unmarshal implements [connect.Codec]. Fields that are not known are passed over, as
// those of a newer client.
func (jsonCodec) Unmarshal(b []byte, message any) error {
	m, ok := message.(proto.Message)
	if !ok {
		return fmt.Errorf("%T is no message", message)
	}
	err := protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(b, m)
	if err == nil {
		return nil
	}
	text := "it is not the JSON of a " + string(m.ProtoReflect().Descriptor().FullName())
	if at := jsonPosition.FindString(err.Error()); at != "" {
		text += " " + at
	}
	return errors.New(text)
}
