"""A server as people leave it, made with MLflow's own clients; run as a program of its own.

100 experiments, 20 models with versions and aliases, 10 prompts, 20 users, 5 roles, which have permissions
on a model and a prompt that are gone.
"""

from __future__ import annotations

import json
import os
import urllib.request

import mlflow
from mlflow import MlflowClient
from mlflow.server import get_app_client


def post(path: str, body: dict[str, object]) -> dict[str, object]:
    """MLflow has no client for roles."""
    request = urllib.request.Request(  # noqa: S310 - the test's own server
        f"{os.environ['MLFLOW_TRACKING_URI']}/api/3.0/mlflow/{path}",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    manager = urllib.request.HTTPPasswordMgrWithPriorAuth()
    login = os.environ["MLFLOW_TRACKING_USERNAME"], os.environ["MLFLOW_TRACKING_PASSWORD"]
    manager.add_password(None, os.environ["MLFLOW_TRACKING_URI"], *login, is_authenticated=True)
    opener = urllib.request.build_opener(urllib.request.HTTPBasicAuthHandler(manager))
    with opener.open(request) as answer:
        found: dict[str, object] = json.load(answer)
        return found


def main() -> None:
    client = MlflowClient()
    ids = []
    for i in range(100):
        name = f"Team {i % 7}/эксперимент {i}" if i % 3 else f"exp-{i}"
        tags = {"owner": f"person{i % 20}"} if i % 2 else {}
        ids.append(client.create_experiment(name, tags=tags))
        if i % 5 == 0:
            client.set_experiment_tag(ids[-1], "mlflow.note.content", "Line one.\nLine two: yes.")
    client.delete_experiment(ids[3])
    for i in range(20):
        name = f"Model {i}"
        client.create_registered_model(name, tags={"n": str(i)}, description="true" if i % 2 else None)
        for n in range(i % 4):
            client.create_model_version(name, f"s3://models/{i}/{n}", tags={"v": "0123"})
        if i % 4 > 1:
            client.set_registered_model_alias(name, "champion", 2)
            client.delete_model_version(name, 1)
    for i in range(10):
        mlflow.genai.register_prompt(name=f"prompt-{i}", template=f"Say {{{{word}}}} {i} times.")
        chat = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "{{question}}"}]
        mlflow.genai.register_prompt(name=f"prompt-{i}", template=chat, commit_message="As chat")
        mlflow.genai.set_prompt_alias(f"prompt-{i}", alias="live", version=2)
    users = get_app_client("basic-auth", tracking_uri=os.environ["MLFLOW_TRACKING_URI"])
    for i in range(20):
        users.create_user(f"person{i}@example.com", "a long enough password")
    users.update_user_admin("person0@example.com", True)
    client.create_registered_model("Gone model")
    mlflow.genai.register_prompt(name="gone-prompt", template="Say nothing.")
    for i in range(5):
        role = post(
            "roles/create", {"name": f"Role {i}", "workspace": "default", "description": "made by hand"}
        )
        number = role["role"]["id"]  # type: ignore[index]
        grants = [
            ("experiment", ids[i], "EDIT"),
            ("registered_model", f"Model {i}", "READ"),
            ("prompt", "*", "READ"),
            ("registered_model", "Gone model", "EDIT"),
            ("prompt", "gone-prompt", "EDIT"),
        ]
        for kind, pattern, permission in grants:
            row = {"resource_type": kind, "resource_pattern": pattern, "permission": permission}
            post("roles/permissions/add", {"role_id": number, **row})
        for n in range(i, 20, 5):
            post("roles/assign", {"role_id": number, "username": f"person{n}@example.com"})
    # MLflow keeps the permissions on what is deleted.
    client.delete_registered_model("Gone model")
    client.delete_prompt_version("gone-prompt", "1")
    client.delete_prompt("gone-prompt")
    users_grants = {"username": "person1@example.com", "resource_type": "experiment", "resource_id": ids[0]}
    post("users/permissions/grant", {**users_grants, "permission": "EDIT"})


if __name__ == "__main__":
    main()
