"""Requests that lead elsewhere, made of what the server itself says of its routes."""

import http.client
import json
from urllib.parse import quote

import requests

# What makes sense for the parameters that are not attacked.
SENSE = {"model": "fusenet_clusters", "strategy": "random", "method": "uncertainty", "tag": "final", "index": "0"}
SENSE |= {"session_id": "x", "view": "0", "output": "image", "name": "annotate.css"}
SLOW = {("post", "/annotate/fit"), ("post", "/annotate/propose"), ("post", "/train/{model}")}
SLOW |= {("post", "/batch/infer/{model}"), ("post", "/scoring/{method}")}


def attack(server, image, places):
    """Sends each place as each parameter and each file name of each route; yields what was sent, and the answer.

    Args:
        server: a running `Server`.
        image: the name of an image that there is.
        places: file names and paths that lead elsewhere.
    """
    spec = requests.get(f"{server.url}/openapi.json", timeout=60).json()
    for path, operations in spec["paths"].items():
        for method, operation in operations.items():
            given = [(one["name"], one["in"]) for one in operation.get("parameters", []) if one["name"] != "token"]
            kind, fields = _body(spec, operation)
            for target in [*(name for name, _ in given), *fields]:
                for place in () if (method, path) in SLOW and target != "model" else places:
                    values = {**SENSE, "image": image, "label": image, "id": image, target: place}
                    url = path
                    for name, where in given:
                        if where == "path":
                            url = url.replace(f"{{{name}}}", quote(values[name], safe=""))
                    query = {name: values[name] for name, where in given if where == "query" and name in values}
                    arguments = _filled(kind, fields, target, place, values)
                    answer = requests.request(method, server.url + url, params=query, timeout=120, **arguments)
                    yield f"{method} {path} {target}={place!r:.40}", answer


def _body(spec, operation):
    """The kind of a request's body, and its fields: whether each is a file."""
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        name = content["schema"].get("$ref", "").split("/")[-1]
        fields = spec["components"]["schemas"].get(name, {}).get("properties", {})
        return kind, {
            name: "octet-stream" in json.dumps(one) or "binary" in json.dumps(one) for name, one in fields.items()
        }
    return "", {}


def _filled(kind, fields, target, place, values):
    if kind == "application/json":
        return {"json": {name: values.get(name, []) for name in fields}}
    files = {name: (place if name == target else "a.png", b"none") for name, is_file in fields.items() if is_file}
    data = {name: place for name, is_file in fields.items() if not is_file and name == target}
    return {"files": files or None, "data": data or None}


def ask_for(server, path, method="GET"):
    """Status and content of a path that no client cleans up."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()
