/** How ranks answer a bench: rank 0 reads requests from its input and passes them on to all ranks. */
import { createInterface } from 'node:readline';
import type { NativeCommunicator } from '../../src/native/index.ts';

/** Bytes of a request, padded with zeros. */
const requestBytes = 256;

/**
 * Prints `ready`, then answers every line of rank 0's input with what `answer` gives there, until the
 * input ends. `answer` runs on all ranks at once. Ranks that wait sleep: they take no core from a peer.
 */
export async function serve(
  communicator: NativeCommunicator,
  answer: (request: string) => Promise<string> | string,
): Promise<void> {
  if (communicator.rank > 0) {
    for (;;) {
      const message = Buffer.alloc(requestBytes);
      communicator.broadcast(message, 0);
      const request = message.toString('utf8').replace(/\0+$/, '');
      if (request === '') return;
      await answer(request);
    }
  }
  console.log('ready');
  for await (const request of createInterface({ input: process.stdin })) {
    pass(communicator, request);
    console.log(await answer(request));
  }
  pass(communicator, '');
}

function pass(communicator: NativeCommunicator, request: string): void {
  const message = Buffer.alloc(requestBytes);
  if (message.write(request) < Buffer.byteLength(request))
    throw new Error('the request is too long');
  communicator.broadcast(message, 0);
}
