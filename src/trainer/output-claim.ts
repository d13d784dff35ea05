import { statSync } from 'node:fs';
import { createServer } from 'node:net';
import { DeepSpeedError } from '../errors.ts';

/**
 * Claims an output folder for one training: of two that save into it, each would take the other's unfinished
 * checkpoints for what a killed run has left, and remove them. The claim is a name in Linux's abstract socket
 * namespace, which goes with the process however that ends; it is known on this machine only, and elsewhere
 * nothing is claimed.
 *
 * @returns gives the claim up
 * @throws OUTPUT_IN_USE
 */
export async function claimOutput(folder: string): Promise<() => void> {
  if (process.platform !== 'linux') return () => {};
  const { dev, ino } = statSync(folder);
  const server = createServer((socket) => socket.destroy());
  const refusal = await new Promise<string | undefined>((resolve) => {
    server.once('listening', () => resolve(undefined));
    server.once('error', ({ code }: NodeJS.ErrnoException) => resolve(code));
    server.listen(`\0deepspeed-js output ${dev}:${ino}`);
  });
  // Another reason than that the name is taken: there are no such sockets here, and nothing is claimed.
  if (refusal === 'EADDRINUSE') {
    const message = `another training writes to ${folder}`;
    throw new DeepSpeedError('OUTPUT_IN_USE', message, { data: { folder } });
  }
  server.unref();
  return () => server.close();
}
