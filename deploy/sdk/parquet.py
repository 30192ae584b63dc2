"""Writes parquet files for the tests: `parquet.py FOLDER VALUE`.

The names begin with what a search must say: found, clean (VALUE is in none of them), or unchecked.
Files with the name golden are those of injector/outputs/archive/testdata, which are written with
--golden and the VALUE s3cr3t-v"lue.
"""

import random
import sys

import pandas
import pyarrow
import pyarrow.parquet

golden = sys.argv[1] == "--golden"
folder, value = sys.argv[-2:]
random.seed(1)
rows = 300 if golden else 12_000
CODECS = ["none", "snappy", "gzip", "zstd", "lz4", "brotli"]


def column(v: str) -> list[str | None]:
    """Returns texts with v in one that is neither the least nor the greatest: those are in the
    footer, too, which is not compressed."""
    texts = [f"row {random.randrange(10**9)} of {i % 7}" for i in range(rows)]
    texts[rows // 2] = "row 5 is " + v
    texts[3] = None
    return texts


def table(v: str) -> pyarrow.Table:
    texts = column(v)
    plain = column("nothing")
    return pyarrow.table(
        {
            "number": list(range(rows)),
            "text": texts,
            "binary": pyarrow.array([t and t.encode() for t in plain], pyarrow.binary()),
            "list": [[t, "x"] for t in plain],
            "struct": [{"a": t, "b": [1.5]} for t in plain],
            "category": pyarrow.array([f"kind {i % 3}" for i in range(rows)]).dictionary_encode(),
        }
    )


def paths(t: pyarrow.Table) -> list[str]:
    """Returns the paths of the columns with texts, as parquet calls them."""
    found = {"list": "list.list.element", "struct": "struct.a"}
    return [found.get(c, c) for c in t.column_names]


def write(name: str, t: pyarrow.Table, **options) -> None:
    pyarrow.parquet.write_table(t, f"{folder}/{name}.parquet", row_group_size=rows // 3, **options)


for prefix, v in ("found", value), ("clean", "nothing"):
    for codec in CODECS:
        for version in "1.0", "2.0":
            for dictionary in True, False:
                name = f"{prefix}-{codec}-{version}" + ("-dictionary" if dictionary else "")
                if golden and (version == "2.0" or dictionary or prefix == "clean"):
                    continue
                t = table(v).select(["text"]) if golden else table(v)
                write(name, t, compression=codec, data_page_version=version, use_dictionary=dictionary)
    # Texts without what they have in common with the one before: with all in it, and with lists and nulls.
    for codec in ["none"] if golden else ["none", "zstd"]:
        for version in "1.0", "2.0":
            name = f"{prefix}-delta-{codec}-{version}"
            if golden and version == "2.0":
                continue
            t = table(v).select(["text"] if golden else ["text", "binary", "list", "struct"])
            write(
                name, t, compression=codec, data_page_version=version, use_dictionary=False,
                column_encoding={c: "DELTA_BYTE_ARRAY" for c in paths(t)},
            )
    if golden:
        break
    ordered = pyarrow.table({"text": pyarrow.array(sorted(filter(None, column(v))))})
    write(f"{prefix}-delta-sorted", ordered, use_dictionary=False, column_encoding="DELTA_BYTE_ARRAY")
    fixed = pyarrow.array([f"{i:0{len(v.encode())}}".encode() for i in range(rows)] + [v.encode()] * 2)
    fixed = pyarrow.table({"fixed": fixed.cast(pyarrow.binary(len(v.encode())))})
    write(f"{prefix}-delta-fixed", fixed, use_dictionary=False, column_encoding="DELTA_BYTE_ARRAY")
    write(
        f"{prefix}-delta-length",
        table(v).select(["text"]),
        use_dictionary=False,
        column_encoding={"text": "DELTA_LENGTH_BYTE_ARRAY"},
    )
    write(f"{prefix}-small-pages", table(v), data_page_size=512, dictionary_pagesize_limit=600, compression="zstd")
    frame = pandas.DataFrame({"text": column(v), "n": range(rows)})
    frame.to_parquet(f"{folder}/{prefix}-pandas.parquet")
    frame.set_index("text").to_parquet(f"{folder}/{prefix}-pandas-index-gzip.parquet", compression="gzip")
    deep = [{"a": [{"b": t}]} for t in column(v)]
    write(f"{prefix}-nested", pyarrow.table({"deep": deep}), compression="snappy")

fixed = pyarrow.array([b"%016d" % i for i in range(rows)], pyarrow.binary(16))
write(
    "unchecked-split",
    pyarrow.table({"fixed": fixed}),
    use_dictionary=False,
    column_encoding={"fixed": "BYTE_STREAM_SPLIT"},
)
