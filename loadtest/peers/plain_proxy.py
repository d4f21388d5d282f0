"""The floor of a gateway in Python: FastAPI and httpx pass a chat through, and nothing else.

UPSTREAM=http://127.0.0.1:9001/v1 uvicorn --app-dir loadtest/peers plain_proxy:app --port 9002 --log-level warning
"""

from __future__ import annotations

import os

import httpx
from fastapi import FastAPI, Request, Response

app = FastAPI()
client = httpx.AsyncClient(base_url=os.environ["UPSTREAM"], limits=httpx.Limits(max_connections=256, max_keepalive_connections=256))


@app.post("/v1/chat/completions")
async def chat(request: Request) -> Response:
    answer = await client.post("/chat/completions", content=await request.body(), headers={"content-type": "application/json"})
    return Response(answer.content, answer.status_code, media_type=answer.headers["content-type"])
