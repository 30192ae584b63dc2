// Package sealed is the store in one encrypted file: the laptop's, and the one
// that a data plane's server keeps. It says nothing about who may read it; who
// has the file and the key may.
//
// # The file
//
// It is a bbolt database with one bucket, "inject":
//
//	"format"   the version of this layout, 4 bytes, big-endian
//	"key"      the data key, an age file: any age identity can hold it
//	"padding"  nothing, so that the bucket has pages of its own
//	"n"+PREFIX a node of the index, sealed
//	"r"+NAME   a record: 2 bytes length, sealed info, sealed value
//
// Everything sealed is a 24-byte random nonce and an XChaCha20-Poly1305
// ciphertext under a key derived from the data key. NAME is a keyed hash
// (HMAC-SHA256) of the secret's id, so the file tells neither names nor scopes;
// it tells how many secrets there are and how long they are.
//
// # Damage never reads as absence
//
// If a damaged narrow secret read as "not found", the task would be handed the
// wider scope's value. So the index is a tree in which every node vouches for
// what is below it. A node covers the names that begin with PREFIX and is
// either a leaf, with each name's version, or 256 versions of nodes one byte
// further down, 0 where there is none. The version of anything is the id of the
// transaction that wrote it and part of its associated data. A lookup thus
// proves a hit and a miss alike, and an old copy of a page, which bbolt leaves
// in the file, does not fit. The root's version is the database's own current
// transaction: it is in bbolt's two meta pages, whose checksums are both
// required, because bbolt alone would silently go back to the older one.
//
// What this cannot tell is the whole file being replaced by an older copy of
// itself (an old meta page is enough for the last transaction), or removed: a
// store that keeps everything in one file has nowhere to remember.
//
// # Files that lie
//
// bbolt trusts its pages: it maps the file, and a file that is cut is a fault; it
// descends by recursion, and pages that point back use the stack up. So it only
// ever writes. What is read is read with plain reads that trust nothing
// (pages.go), which also is what makes a lookup among a million secrets cost what
// one among ten does: mapping and unmapping a large file costs more than the
// lookup. Before bbolt maps the file to change it, its length is compared with
// what the meta pages need; before it follows a path of pages, the path is walked;
// and what faults or panics nevertheless is reported as [secret.ErrCorrupt]. No
// cursor is used: every access is by key, on a path that was walked.
//
// # Copies
//
// A backup is the file as a transaction left it, with both its meta pages, and zeros
// where pages are free: what was deleted, and what older keys open, is not in it.
// bbolt's own copy would do neither, and puts the newer meta page first, where it
// belongs only after every other transaction. Before pages are copied, all of them are
// surveyed: that each is in the tree once and not free, with its keys in order. Verify
// and Restore do so, too, for what no lookup meets may still mislead a write.
package sealed
