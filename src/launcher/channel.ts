/**
 * The launcher's socket to each rank. Its end-of-file tells a rank that the launcher is gone (the
 * parent-death signal does so too, where the system has one); a rank says through it which error ends
 * it, so that the launcher can tell a cause from its consequences. Messages are lines of JSON.
 */
import { Socket } from 'node:net';
import type { Readable } from 'node:stream';
import { finished } from 'node:stream/promises';
import { fileURLToPath } from 'node:url';
import { inspect } from 'node:util';
import { DeepSpeedError } from '../errors.ts';
import { isNativeError, renderNativeError } from '../native/index.ts';

/** The uncaught error that ends a rank. */
export interface RankError {
  /** `code` of the error, when it has one. */
  code: string | null;
  message: string;
  /** What to show of it, in lines. */
  text: string;
}

const LONGEST_TEXT = 16_384;

/** Rank: watches the launcher and reports the error that nobody caught. Keeps no process alive. */
export function openRankChannel(fd: number): void {
  const socket = new Socket({ fd, readable: true, writable: true });
  socket.unref();
  socket.resume();
  socket.on('error', () => socket.destroy());
  // No clean-up of any kind: what the run shared is freed with its last process.
  socket.on('close', () => process.kill(process.pid, 'SIGKILL'));
  // Small writes to a socket are done before write() returns, hence before the process ends.
  reportUncaught((error) => socket.write(`${JSON.stringify(error)}\n`));
}

/** Rank: hands the error that nobody caught to `send`, which must be done with it when it returns. */
export function reportUncaught(send: (error: RankError) => void): void {
  process.on('uncaughtExceptionMonitor', (error: unknown) => {
    if (onlyNodeKnowsWhere(error)) return;
    send(describeError(error));
    // The launcher tells it, once for all ranks that it ends: leave before Node prints it here, too,
    // but after everybody who listens to the end.
    if (isFatal()) process.once('exit', (code) => process.exit(code));
  });
}

/** Whether Node will end the process over an uncaught error: nobody has asked for it. */
function isFatal(): boolean {
  return (
    process.listenerCount('uncaughtException') === 0 &&
    !process.hasUncaughtExceptionCaptureCallback()
  );
}

/** A module that does not parse: its file and line are in Node's picture of the error and nowhere else. */
function onlyNodeKnowsWhere(error: unknown): boolean {
  return error instanceof SyntaxError && origin(error) === '';
}

function describeError(error: unknown): RankError {
  const { code, message } = (typeof error === 'object' && error !== null ? error : {}) as {
    code?: unknown;
    message?: unknown;
  };
  const text = picture(error);
  return {
    code: typeof code === 'string' ? code : null,
    message: (typeof message === 'string' ? message : text).slice(0, LONGEST_TEXT),
    text: text.slice(0, LONGEST_TEXT),
  };
}

/** Our own errors say what happened and what to do; of others Node's picture with the stack is all there is. */
function picture(error: unknown): string {
  if (isOwnError(error)) return `${error.render()}${origin(error)}`;
  if (isNativeError(error)) return `${renderNativeError(error)}${origin(error)}`;
  return inspect(error);
}

/** Also of another copy of the package: the launcher may be installed elsewhere than what the script imports. */
function isOwnError(error: unknown): error is DeepSpeedError {
  return error instanceof Error && error.name === 'DeepSpeedError' && 'render' in error;
}

/** The line of the user's script that led to the error, on a line of its own. */
function origin(error: Error): string {
  const { home = DeepSpeedError.home } = error.constructor as Partial<typeof DeepSpeedError>;
  const frames = (error.stack ?? '').split('\n').filter((line) => /^ +at /.test(line));
  const own = [home, fileURLToPath(home), '/node_modules/', 'node:', '(<anonymous>)'];
  const frame = frames.find((line) => !own.some((part) => line.includes(part)));
  return frame === undefined ? '' : `\n  ${frame.trim()}`;
}

/**
 * Launcher: the first error that the rank reported, or null; known once the rank has closed its end.
 * Reads on until then, since a launcher that closes first ends the rank.
 */
export async function readRankError(channel: Readable): Promise<RankError | null> {
  let received = '';
  channel.setEncoding('utf8');
  channel.on('data', (chunk: string) => {
    if (received.length < 4 * LONGEST_TEXT) received += chunk;
  });
  await finished(channel, { writable: false }).catch(() => {}); // a reset ends it as well
  const end = received.indexOf('\n');
  return end < 0 ? null : (JSON.parse(received.slice(0, end)) as RankError);
}
