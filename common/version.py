"""The version, which every log and `--version` carry. CHANGELOG.md says what it promises."""

VERSION = "0.13.0"
