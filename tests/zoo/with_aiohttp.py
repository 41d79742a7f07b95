"""aiohttp: one session for all workers. By itself it repeats idempotent methods only, and a POST is none."""

import asyncio
import sys

import aiohttp

import crew


async def main():
    timeout = aiohttp.ClientTimeout(total=20)
    async with aiohttp.ClientSession(timeout=timeout) as session:

        async def post(body):
            async with session.post(sys.argv[1], data=body) as answer:
                return answer.status, await answer.read()

        await crew.run_async(post)


asyncio.run(main())
