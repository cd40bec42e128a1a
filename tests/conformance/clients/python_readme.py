"""Runs the usage examples of the README of etcd's Python client as they are written there.

They are read from the installed package. A body that is only a comment gets a `pass`; while an
example waits for changes, another thread makes them.
"""

import importlib.metadata
import re
import threading
import textwrap

import etcd3

README = importlib.metadata.metadata("etcd3").get_payload()
CODE = textwrap.dedent(README.split(".. code-block:: python\n\n", 1)[1].split("\n\n\n=====", 1)[0])
# `with … :` over nothing but a comment is no Python yet.
CODE = re.sub(r"(with .*:\n +)# do something", r"\1pass  # do something", CODE)
EXAMPLES = re.split(r"\n(?=# [a-z])", CODE)

events = 0


def count_events(*_):
    """Stands for `print`: where events come in which packet is not what is compared."""
    global events
    events += 1


def make_changes(stop):
    """Changes every key the examples look at, until told to stop."""
    client = etcd3.client()
    number = 0
    while not stop.wait(0.02):
        number += 1
        for key in ("/doot/watch", "/doot/watch/prefix/a", "/anotherkey"):
            client.put(key, str(number))


def main():
    """Runs the examples in one namespace, as a reader would type them."""
    stop = threading.Event()
    changes = threading.Thread(target=make_changes, args=(stop,))
    changes.start()
    try:
        names = {"print": count_events}
        for example in EXAMPLES:
            title = example.strip().splitlines()[0]
            before = events
            exec(compile(example, title, "exec"), names)  # the README is the program
            watched = "for event in" in example
            print(f"{title}: done" + (", saw events" if watched and events - before > 10 else ""))
    finally:
        stop.set()
        changes.join()
    etcd = names["etcd"]
    print("bar:", etcd.get("bar")[0], "testing:", etcd.get("/doot/testing")[0])


main()
