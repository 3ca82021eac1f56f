"""Wrong settings: what is set, or is not, and what each role says of it before it does anything."""

from __future__ import annotations

import os

from tests.wrong_steps.steps import Step

MINER, VALIDATOR, TRAINER = "grail-miner run", "grail-validator run", "grail-trainer run --model model"
HOSTS = ["r2.cloudflarestorage.com"]
R2 = {
    "GRAIL_STORAGE_ROOT": "",
    "R2_BUCKET_ID": "bucket",
    "R2_ACCOUNT_ID": "0123456789abcdef0123456789abcdef",
    "R2_READ_ACCESS_KEY_ID": "0123456789abcdef0123456789abcdef",
    "R2_READ_SECRET_ACCESS_KEY": "a" * 64,
    "R2_WRITE_ACCESS_KEY_ID": "fedcba9876543210fedcba9876543210",
    "R2_WRITE_SECRET_ACCESS_KEY": "b" * 64,
}

STEPS = (
    Step("a network that is not there", MINER, 3, ("no network of this name", "GRAIL_NETWORK"), {"GRAIL_NETWORK": "nowhere"}),
    Step(
        "a network file that is not there",
        VALIDATOR,
        3,
        ("no such file of network", "GRAIL_NETWORK"),
        {"GRAIL_NETWORK": "/no/net.json"},
    ),
    Step("a network without a trainer", MINER, 3, ("names no trainer hotkey", "GRAIL_NETWORK"), {"GRAIL_NETWORK": ""}),
    Step(
        "a network file that is cut short",
        MINER,
        3,
        ("does not parse", "net.json"),
        {"GRAIL_NETWORK": "net.json"},
        lambda p: p.write("net.json", '{"name": '),
    ),
    Step(
        "a network file that is a picture",
        MINER,
        3,
        ("does not parse",),
        {"GRAIL_NETWORK": "net.json"},
        lambda p: p.write("net.json", b"\x89PNG\r\n\xff"),
    ),
    Step("a parameter of another type", MINER, 3, ("does not parse", "netuid"), before=lambda p: p.network_file(netuid="two")),
    Step(
        "a parameter that is missing",
        TRAINER,
        3,
        ("does not parse",),
        before=lambda p: p.network_file(trainer_hotkey=None),
        role="trainer",
    ),
    Step("another subnet's number", MINER, 3, ("netuid 82", "NETUID"), {"NETUID": "82"}),
    Step("a number in words", MINER, 3, ("NETUID", "whole number"), {"NETUID": "eighty"}),
    Step("a GPU where there is none", MINER, 11, ("cuda:63", "GRAIL_DEVICE=cpu"), {"GRAIL_DEVICE": "cuda:63"}),
    Step("gpu for cuda", VALIDATOR, 3, ("GRAIL_DEVICE", "cuda"), {"GRAIL_DEVICE": "gpu"}, role="validator-0"),
    Step(
        "a device that is not there", VALIDATOR, 3, ("GRAIL_DEVICE", "cuda:7"), {"GRAIL_DEVICE": "cuda:7"}, role="validator-0"
    ),
    Step(
        "a device that is not there, of a trainer",
        TRAINER,
        3,
        ("GRAIL_DEVICE", "cuda:7"),
        {"GRAIL_DEVICE": "cuda:7"},
        role="trainer",
    ),
    Step("a relay without a scheme", MINER, 3, ("GRAIL_BEACON_URLS", "https://"), {"GRAIL_BEACON_URLS": "api.drand.sh/52db"}),
    Step("no relay", MINER, 3, ("no beacon relay", "GRAIL_BEACON_URLS"), {"GRAIL_BEACON_URLS": ","}),
    Step(
        "a node without a scheme",
        MINER,
        3,
        ("BT_CHAIN_ENDPOINT", "wss://"),
        {"BT_NETWORK": "custom", "BT_CHAIN_ENDPOINT": "node.example:9944"},
    ),
    Step("a chain of no kind", MINER, 3, ("BT_NETWORK", "finney"), {"BT_NETWORK": "nowhere", "BT_CHAIN_ENDPOINT": ""}),
    Step("a local chain without its file", MINER, 3, ("BT_CHAIN_ENDPOINT",), {"BT_CHAIN_ENDPOINT": ""}),
    Step("a local chain that is not there", MINER, 8, ("chain", "nothing.sqlite"), {"BT_CHAIN_ENDPOINT": "nothing.sqlite"}),
    Step(
        "a local chain that is a text",
        MINER,
        8,
        ("chain", "text.sqlite"),
        {"BT_CHAIN_ENDPOINT": "text.sqlite"},
        lambda p: p.write("text.sqlite", "hello " * 100),
    ),
    Step("no folder of buckets", MINER, 3, ("folder of buckets", "GRAIL_STORAGE_ROOT"), {"GRAIL_STORAGE_ROOT": "/no/buckets"}),
    Step(
        "a folder of buckets that is a file",
        MINER,
        3,
        ("folder of buckets", "GRAIL_STORAGE_ROOT"),
        {"GRAIL_STORAGE_ROOT": "file"},
        lambda p: p.write("file", ""),
    ),
    Step("no bucket", MINER, 3, ("GRAIL_STORAGE_BUCKET",), {"GRAIL_STORAGE_BUCKET": ""}),
    Step("a bucket outside the folder", MINER, 3, ("bucket",), {"GRAIL_STORAGE_BUCKET": "../elsewhere"}),
    Step("remote buckets on a network of folders", MINER, 3, ("GRAIL_STORAGE_ROOT",), R2),
    Step(
        "half of a bucket's settings",
        MINER,
        3,
        ("R2_WRITE_SECRET_ACCESS_KEY",),
        {**R2, "R2_WRITE_SECRET_ACCESS_KEY": ""},
        lambda p: p.network_file(store_hosts=HOSTS),
    ),
    Step(
        "the write key as the read key",
        MINER,
        3,
        ("R2_READ_ACCESS_KEY_ID",),
        {**R2, "R2_READ_ACCESS_KEY_ID": R2["R2_WRITE_ACCESS_KEY_ID"]},
        lambda p: p.network_file(store_hosts=HOSTS),
    ),
    Step(
        "an endpoint that nobody reads from",
        MINER,
        3,
        ("R2_ENDPOINT_URL",),
        {**R2, "R2_ENDPOINT_URL": "https://example.com"},
        lambda p: p.network_file(store_hosts=HOSTS),
    ),
    Step(
        "a table that is not there",
        VALIDATOR,
        3,
        ("GRAIL_CALIBRATION",),
        {"GRAIL_CALIBRATION": "/no/table.json"},
        role="validator-0",
    ),
    Step("a key with a line end in it", MINER, 3, ("R2_READ_SECRET_ACCESS_KEY",), {"R2_READ_SECRET_ACCESS_KEY": "a\nb"}),
    Step(
        "a cache of one and a half",
        MINER,
        3,
        ("GRAIL_CHECKPOINT_CACHE_GIB", "whole number"),
        {"GRAIL_CHECKPOINT_CACHE_GIB": "1.5"},
    ),
    Step("attention that validators do not have", MINER, 11, ("SDPA",), {"GRAIL_PIPELINE_PROOF_FLASH_ATTN": "true"}),
    Step(
        "a GPU that is not there",
        MINER,
        11,
        ("there is no GPU 63", "GRAIL_PIPELINE_VLLM_GPU"),
        {"GRAIL_PIPELINE_BACKEND": "sglang", "GRAIL_PIPELINE_VLLM_GPU": "63"},
    ),
    Step("an engine that is not installed", MINER, 3, ("GRAIL_VLLM_PYTHON",), {"GRAIL_PIPELINE_BACKEND": "vllm"}),
    Step(
        "an engine's address without a scheme",
        MINER,
        3,
        ("GRAIL_SGLANG_URL",),
        {"GRAIL_PIPELINE_BACKEND": "sglang", "GRAIL_SGLANG_URL": "127.0.0.1:30000"},
    ),
    Step("no beacon where the network has one", f"{MINER} --no-drand", 3, ("requires its beacon", "--no-drand")),
    Step(
        "a line of .env that is none", MINER, 3, (".env", "line 2"), before=lambda p: p.write(".env", "NETUID=2\nhello there\n")
    ),
    Step(
        "a setting that stands in .env twice",
        MINER,
        3,
        (".env", "NETUID"),
        before=lambda p: p.write(".env", "NETUID=2\nNETUID=3\n"),
    ),
    Step(
        "a key of grail.toml that no setting has",
        MINER,
        3,
        ("grail.toml", "GRAIL_DEVICE"),
        before=lambda p: p.write("grail.toml", 'GRAIL_DEVISE = "cpu"\n'),
    ),
    Step("a settings file that is not there", MINER, 3, ("GRAIL_CONFIG",), {"GRAIL_CONFIG": "/no/grail.toml"}),
    Step(
        "a log below a file", MINER, 3, ("GRAIL_LOG_FILE",), {"GRAIL_LOG_FILE": "file/miner.log"}, lambda p: p.write("file", "")
    ),
    Step("a log that is a folder", VALIDATOR, 3, ("GRAIL_LOG_FILE",), {"GRAIL_LOG_FILE": "."}),
    Step(
        "a log that is a pipe",
        MINER,
        3,
        ("is a pipe", "GRAIL_LOG_FILE"),
        {"GRAIL_LOG_FILE": "pipe"},
        lambda p: os.mkfifo(p.folder / "pipe"),
    ),
)
