"""A chat endpoint for tests, on this machine: it answers each request with the next of its replies."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SLOW_REPLY = {"evaluation": "YES", "target_formula": "4*6*1*1"}


class Server(ThreadingHTTPServer):
    """Answers each request with the next of `replies` (the last one again and again): a reply object, a text, a whole message,
    a status, a status with what is said of it, raw bytes, a number of seconds to wait first, or a function of the request."""

    def __init__(self, replies):
        super().__init__(("127.0.0.1", 0), Handler)
        self.replies, self.seen, self.lock = list(replies), [], threading.Lock()
        self.n_open = self.most_open = 0


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            server.seen.append((dict(self.headers), body))
            reply = server.replies.pop(0) if len(server.replies) > 1 else server.replies[0]
            server.n_open += 1
            server.most_open = max(server.most_open, server.n_open)
        if callable(reply):
            reply = reply(body)
        if isinstance(reply, float):
            time.sleep(reply)
            reply = SLOW_REPLY
        with server.lock:
            server.n_open -= 1
        status = 200
        if isinstance(reply, tuple):
            status, why = reply
            reply = json.dumps({"error": {"message": why}}).encode()
        self.send_response(reply if isinstance(reply, int) else status)
        self.end_headers()
        if isinstance(reply, dict):
            message = reply if "tool_calls" in reply else {"content": json.dumps(reply)}
            reply = json.dumps({"choices": [{"message": message}], "usage": {"prompt_tokens": 1000, "completion_tokens": 10}})
        elif isinstance(reply, str):
            reply = json.dumps({"choices": [{"message": {"content": reply}}]})
        if isinstance(reply, str):
            reply = reply.encode()
        if isinstance(reply, bytes):
            self.wfile.write(reply)

    def log_message(self, *args):
        pass
