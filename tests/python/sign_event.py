"""Signs an event with Stripe's own SDK, posts it to a gateway and prints the answer's status.

    sign_event.py URL SECRET [--age SECONDS] [--also SECRET] < event.json

The body is read from standard input and sent byte for byte. `--age` signs it as if it were that old; `--also` adds
the signature of a second secret, as Stripe does while a secret is being rolled.
"""

import argparse
import sys
import time
import urllib.error
import urllib.request

import stripe


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("url")
    arguments.add_argument("secret")
    arguments.add_argument("--age", type=int, default=0)
    arguments.add_argument("--also")
    options = arguments.parse_args()

    body = sys.stdin.buffer.read()
    timestamp = int(time.time()) - options.age
    sign = stripe.WebhookSignature.generate_signature_header
    header = sign(body.decode(), options.secret, timestamp)
    if options.also:
        header += "," + sign(body.decode(), options.also, timestamp).split(",", 1)[1]

    headers = {"Content-Type": "application/json; charset=utf-8", "Stripe-Signature": header}
    request = urllib.request.Request(options.url, data=body, headers=headers, method="POST")
    # An environment's proxy has no business between two processes of one machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=30) as answer:
            print(answer.status)
    except urllib.error.HTTPError as error:
        print(error.code)


main()
