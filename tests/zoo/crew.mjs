// What the Node clients share: workers that never repeat a request, their tally, and an end. As crew.py.

const WORKERS = 16;
const FAILURES = 20;

const tally = { done: 0, failed: 0, refused: 0, failures: [] };
let stopped = false;

const sleep = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));
const tell = () => console.log(JSON.stringify(tally));

// Half are busy, half mostly idle.
const pause = (worker) => (worker % 2 ? 100 + Math.random() * 800 : 0);

function failed(error) {
  tally.failed += 1;
  const cause = error.cause ? `: ${error.cause.code ?? ''} ${error.cause.message}` : '';
  if (tally.failures.length < FAILURES) tally.failures.push(`${error.code ?? error.name} ${error.message}${cause}`);
}

async function work(worker, post) {
  for (let n = 0; !stopped; n += 1) {
    const body = `payload ${worker} ${n}`;
    try {
      const [status, answer] = await post(body);
      if (status !== 200) throw new Error(`status ${status}`);
      if (answer !== body) throw new Error('another answer than was sent');
      tally.done += 1;
    } catch (error) {
      failed(error);
      await sleep(20);
    }
    await sleep(pause(worker));
  }
}

/** `post` takes a body and gives status and answer. */
export async function run(post) {
  process.stdin.on('end', () => { stopped = true; }).resume();
  const telling = setInterval(tell, 250);
  await Promise.all(Array.from({ length: WORKERS }, (_, worker) => work(worker, post)));
  clearInterval(telling);
  tell();
  process.exit();
}
