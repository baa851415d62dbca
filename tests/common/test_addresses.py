"""What is shown of an address, against urllib's reading of it; and that no secret is shown, however it is written."""

import json
from urllib.parse import quote, urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.addresses import below, last_part, shown, without_secrets
from common.errors import Problem, UserError

SECRET = "S3cr3tS3cr3t"
NOISE = st.text(st.sampled_from("/?#@:[]%&=;,'\\ ab1"), max_size=6)
TEXT = st.text(st.sampled_from("a/?#@:%é \n"), max_size=6).map(lambda text: quote(text, safe=""))


@settings(max_examples=50)
@given(TEXT, TEXT, st.sampled_from(["host", "[::1]", "127.0.0.1:80"]), TEXT, TEXT, st.sampled_from("?#"))
def test_shown_is_the_address_without_user_and_query(user, password, host, path, query, mark):
    address = f"https://{user}:{password}@{host}/{path}{mark}{query}"
    parts = urlsplit(address)
    assert shown(address) == f"https://{parts.netloc.rpartition('@')[2]}{parts.path}"
    assert last_part(address) == last_part(parts.path)


@given(NOISE, NOISE, st.sampled_from(["https", "HTTP", "s3", "ftp", "htps"]))
def test_no_password_is_shown_however_it_is_written(before, after, scheme):
    address = f"{scheme}://user:{before}{SECRET}{after}@host/file.txt?sig={SECRET}"
    assert SECRET not in shown(address)
    assert shown(address).lower().startswith(f"{scheme.lower()}://")


@pytest.mark.parametrize("path", ["a/b?c#d@e", "enwiki-latest", "C:\\books?", "", "user@host:2"])
def test_a_path_is_shown_as_it_is(path):
    assert shown(path) == path
    assert without_secrets(f"There is no {path}; make it.") == f"There is no {path}; make it."


def test_addresses_in_texts_lose_their_secrets_alone():
    text = "--input=https://u:PW@h:80/a?SIG, (s3://b/c) 'http://h/x?SIG#SIG'; see https://h:443: and tcp://HOST:PORT."
    told = without_secrets(text)
    assert told == "--input=https://h:80/a, (s3://b/c) 'http://h/x; see https://h:443: and tcp://HOST:PORT."
    paths = "give data:/raid/run#3/x or Node:/A@b/c"
    assert without_secrets(paths) == paths
    line = json.dumps({"command": "a https://u:PW@h/x?SIG=\"'\\ b", "more": ["https://h/y?SIG", 1]})
    assert json.loads(without_secrets(line))["more"] == ["https://h/y", 1]


def test_no_error_says_a_secret():
    problem = Problem("There is no https://u:PW@h/x?SIG to read", "give ftp://v:PW@h/y")
    assert str(UserError([problem])) == "There is no https://h/x to read; give ftp://h/y."


def test_a_file_of_a_mirror():
    assert below("https://h/m/", "a/b.txt") == "https://h/m/a/b.txt"
    assert below("https://h/m?sig=x/y", "b.txt") == "https://h/m/b.txt?sig=x/y"
    assert below("/my/what?/", "b.txt") == "/my/what?/b.txt"
