// A rank of run-ranks.ts: loads the fixture that it is given and runs it for every message. JavaScript, since
// Node 20 starts no worker from TypeScript, even under tsx.
import { parentPort, workerData } from 'node:worker_threads';
import { register } from 'tsx/esm/api';

register();
// Many short runs: their summaries would bury what the tests say.
console.log = () => {};
const { run } = await import(workerData);
parentPort.on('message', async ({ task, world }) => {
  try {
    parentPort.postMessage({ value: await run(task, world) });
  } catch (error) {
    const { code, message, fix } = error;
    parentPort.postMessage({ error: { code, message, fix } });
  }
});
