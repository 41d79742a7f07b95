// Node's fetch, which is undici: it keeps connections, and closes idle ones when a Keep-Alive header says so.
import { run } from './crew.mjs';

await run(async (body) => {
  const answer = await fetch(process.argv[2], { method: 'POST', body });
  return [answer.status, await answer.text()];
});
