"""A receiver of alerts that verifies each message with the official Standard Webhooks library.

    receiver.py SECRET [STATUS …]

Prints its port on the first line, then one JSON line a request: `verified`, `id`, `status` and the parsed `message`.
Verified messages are answered with the given statuses in turn, then with 200; others with 401. It ends when its
standard input does, so that it does not outlive the test.
"""

import http.server
import json
import sys
import threading

from standardwebhooks import Webhook, WebhookVerificationError

verifier = Webhook(sys.argv[1])
statuses = [int(status) for status in sys.argv[2:]]
turn = threading.Lock()


class Receiver(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with turn:
            try:
                message, verified = verifier.verify(body, dict(self.headers)), True
                status = statuses.pop(0) if statuses else 200
            except WebhookVerificationError:
                message, verified, status = None, False, 401
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()
            line = {"verified": verified, "id": self.headers["webhook-id"], "status": status, "message": message}
            print(json.dumps(line), flush=True)

    def log_message(self, *_: object) -> None:
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
print(server.server_address[1], flush=True)
threading.Thread(target=server.serve_forever, daemon=True).start()
sys.stdin.read()
