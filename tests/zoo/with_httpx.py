"""httpx: one client for all workers, over HTTP/1.1 or, with `http2` as second argument, h2c."""

import asyncio
import sys

import httpx

import crew


async def main():
    http2 = sys.argv[2:] == ["http2"]
    async with httpx.AsyncClient(http1=not http2, http2=http2, timeout=20, trust_env=False) as client:

        async def post(body):
            answer = await client.post(sys.argv[1], content=body)
            return answer.status_code, answer.content

        await crew.run_async(post)


asyncio.run(main())
