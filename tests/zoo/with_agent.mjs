// Node's http module with an agent that keeps connections.
import http from 'node:http';

import { run } from './crew.mjs';

const agent = new http.Agent({ keepAlive: true });

await run((body) => new Promise((resolve, reject) => {
  const request = http.request(process.argv[2], { method: 'POST', agent }, (answer) => {
    const chunks = [];
    answer.on('data', (chunk) => chunks.push(chunk));
    answer.on('error', reject);
    answer.on('end', () => resolve([answer.statusCode, Buffer.concat(chunks).toString()]));
  });
  request.on('error', reject);
  request.end(body);
}));
