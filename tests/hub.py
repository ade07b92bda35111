# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""A stand-in for the Hub: the part of its HTTP API that creates repositories, and up- and downloads files."""

import base64
import hashlib
import http.server
import json
import re
import threading
import urllib.parse

import yaml

TOKEN = "hf_standin"
USER = "me"
# What the Hub takes, of what FILA's cards may say: https://huggingface.co/docs/hub/model-cards, .../spaces-config-reference
LICENSES = {"apache-2.0", "llama3", "mit", "other"}
PIPELINE_TAGS = {"image-text-to-text"}
COLORS = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}


def find_card_errors(content, repo_type):
    """`list[str]`: what the Hub would refuse in the metadata of a README."""
    header = re.match(r"---\n(.*?)\n---\n", content, flags=re.DOTALL)
    data = yaml.safe_load(header[1]) if header else None
    if not isinstance(data, dict):
        return ["metadata is missing"]
    errors = [f"{key} is not a list of strings" for key in ("tags", "models") if not _are_strings(data.get(key, []))]
    if data.get("license", "other") not in LICENSES:
        errors.append(f"license {data['license']} is unknown")
    if repo_type == "space":
        errors += [f"{key} is no colour" for key in ("colorFrom", "colorTo") if data.get(key) not in COLORS]
        errors += [f"{key} is missing" for key in ("title", "sdk") if not data.get(key)]
        errors += [
            f"{key} is no string" for key in ("sdk_version", "python_version") if not _are_strings([data.get(key)])
        ]
    elif data.get("pipeline_tag", "image-text-to-text") not in PIPELINE_TAGS:
        errors.append(f"pipeline_tag {data['pipeline_tag']} is unknown")
    return errors


def _are_strings(values):
    return isinstance(values, list) and all(isinstance(value, str) for value in values)


class Hub:
    """Serves `repos`: the files of each repository, `bytes` by path. Ids of Spaces start with `spaces/`."""

    def __init__(self):
        self.repos = {}
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.endpoint = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def environment(self, cache):
        """`dict[str, str]`: environment variables of a process that uses this Hub, and keeps its files in `cache`."""
        return {
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(cache),
            "HF_HUB_CACHE": str(cache / "hub"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_OFFLINE": "0",
            "HF_TOKEN": TOKEN,
        }

    def add_folder(self, repo, folder):
        files = [path for path in folder.rglob("*") if path.is_file()]
        self.repos[repo] = {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}

    def commit(self, repo):
        """`str`: the commit of what a repository holds now."""
        return hashlib.sha1(
            b"".join(name.encode() + data for name, data in sorted(self.repos[repo].items()))
        ).hexdigest()


class _Handler(http.server.BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = urllib.parse.unquote(urllib.parse.urlparse(self.path).path).strip("/")
        if path == "api/whoami-v2":
            return self.reply_json({"type": "user", "name": USER, "orgs": [], "auth": {}})
        if match := re.fullmatch(r"api/(models|spaces)/([^/]+/[^/]+)(/revision/[^/]+|/tree/.*)?", path):
            repo = match[2] if match[1] == "models" else f"spaces/{match[2]}"
            if repo in self.hub.repos:
                tree = re.fullmatch(r"/tree/[^/]+/?(.*)", match[3] or "")
                return self.reply_repo(repo, match[2]) if tree is None else self.reply_tree(repo, tree[1])
        if match := re.fullmatch(r"((?:spaces/)?[^/]+/[^/]+)/resolve/[^/]+/(.*)", path):
            if match[2] in self.hub.repos.get(match[1], {}):
                return self.reply_file(*match.groups())
            if match[1] in self.hub.repos:
                return self.reply(
                    404, headers={"X-Error-Code": "EntryNotFound", "X-Repo-Commit": self.hub.commit(match[1])}
                )
        return self.reply(404, headers={"X-Error-Code": "RepoNotFound"})

    def do_POST(self):
        path, body = urllib.parse.urlparse(self.path).path, self.rfile.read(int(self.headers["Content-Length"]))
        if path == "/api/validate-yaml":
            given = json.loads(body)
            errors = find_card_errors(given["content"], given["repoType"])
            return self.reply_json({"errors": [{"message": error} for error in errors]}, 400 if errors else 200)
        if self.headers["Authorization"] != f"Bearer {TOKEN}":
            return self.reply_json({"error": "Invalid username or password."}, 401)
        if path == "/api/repos/create":
            given = json.loads(body)
            repo = f"{given.get('organization') or USER}/{given['name']}"
            repo = f"spaces/{repo}" if given.get("type") == "space" else repo
            status = 409 if repo in self.hub.repos else 200
            self.hub.repos.setdefault(repo, {".gitattributes": b""})
            return self.reply_json({"url": f"{self.hub.endpoint}/{repo}"}, status)
        kind, repo, action = re.fullmatch(r"/api/(models|spaces)/([^/]+/[^/]+)/(preupload|commit)/.*", path).groups()
        repo = repo if kind == "models" else f"spaces/{repo}"
        if action == "preupload":
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            return self.reply_json({"files": files})
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                self.hub.repos[repo][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            elif line["key"] == "deletedFile":
                del self.hub.repos[repo][line["value"]["path"]]
        commit = self.hub.commit(repo)
        return self.reply_json({"commitUrl": f"{self.hub.endpoint}/{repo}/commit/{commit}", "commitOid": commit})

    def reply_tree(self, repo, folder):
        files = {name: data for name, data in self.hub.repos[repo].items() if name.startswith(folder and f"{folder}/")}
        if not files:
            return self.reply(404, headers={"X-Error-Code": "EntryNotFound"})
        entries = [{"type": "file", "path": name, "size": len(data), "oid": "0" * 40} for name, data in files.items()]
        return self.reply_json(entries)

    def reply_repo(self, repo, repo_id):
        files = [{"rfilename": name, "size": len(data)} for name, data in self.hub.repos[repo].items()]
        return self.reply_json({"id": repo_id, "modelId": repo_id, "sha": self.hub.commit(repo), "siblings": files})

    def reply_file(self, repo, name):
        body, status = self.hub.repos[repo][name], 200
        headers = {"ETag": f'"{hashlib.sha1(body).hexdigest()}"', "X-Repo-Commit": self.hub.commit(repo)}
        if byte_range := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            start, end, size = int(byte_range[1]), int(byte_range[2] or len(body) - 1), len(body)
            body, status = body[start : end + 1], 206
            headers["Content-Range"] = f"bytes {start}-{start + len(body) - 1}/{size}"
        return self.reply(status, body, headers)

    def reply_json(self, content, status=200):
        return self.reply(status, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def reply(self, status, body=b"", headers=None):
        self.send_response(status)
        for key, value in {**(headers or {}), "Content-Length": len(body)}.items():
            self.send_header(key, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
