/**
 * The launcher's side of the control channel of a run over several machines: one TCP connection to each rank.
 * A rank says who it is, gives a sign of life twice a second from a thread of its own, tells why it leaves or the error
 * that ends it, and its exit status; the launcher answers with signs of life, with who has left and, once, with an abort.
 *
 * It finds who has died (the connection ended without a word), who is cut off (nothing is heard although nothing
 * ended), who has not come, who is of another version and who was started twice. MPI tells none of these.
 */
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { createServer, type AddressInfo, type Server, type Socket } from 'node:net';
import type { RankError } from '../channel.ts';
import { nameRanks } from '../failure.ts';
import type { RankEnd } from '../rank-process.ts';

/** The first line of a rank. */
export interface Hello {
  token: string;
  rank: number;
  pid: number;
  host: string;
  version: string;
}

/** Why a run cannot go on, before any rank has said so itself. */
export interface Fault {
  kind: 'died' | 'cut off' | 'absent' | 'version' | 'twice';
  /** Those to blame, ascending. */
  ranks: number[];
  /** The names of machines that nothing was left of. */
  lostHosts: string[];
  message: string;
}

export interface HubOptions {
  /** The machine of every rank, by the name that the user gave it. */
  hostOf: readonly string[];
  version: string;
  /** Silence after which a rank counts as cut off. */
  linkTimeoutMs: number;
  /** After the first rank has come, how long the others may take: a process that ended before it said a word is told by nobody. */
  startTimeoutMs: number;
  onFault: (fault: Fault) => void;
  onEnd: (end: RankEnd) => void;
}

interface Member {
  hello: Hello;
  socket: Socket;
  /** Turns since something was heard. */
  silentTurns: number;
  error: RankError | null;
  exitCode: number | null;
  /** Its connection is gone, or was given up; `onEnd` has heard of it, or is about to. */
  over: boolean;
}

const BEAT_MS = 500;
/** After a connection ended without a word, how long to wait for others of its machine: they fell together. */
const GATHER_MS = 300;

export class Hub {
  readonly token = randomBytes(16).toString('hex');
  readonly #options: HubOptions;
  readonly #server: Server;
  readonly #members = new Map<number, Member>();
  readonly #sockets = new Set<Socket>();
  #beat: NodeJS.Timeout | null = null;
  #gathering: NodeJS.Timeout | null = null;
  /** Whose connections ended without a word, for the same fault. */
  #fallen: Member[] = [];
  /** Whose ends came after those: as a rule because of them. */
  #following: Member[] = [];
  /** When the first rank came; null before, and once all have. */
  #since: number | null = null;
  #closed = false;
  #aborted: string | null = null;
  /** Of each rank that has ended by itself, what the others are told. */
  readonly #left = new Map<number, string>();

  constructor(options: HubOptions) {
    this.#options = options;
    this.#server = createServer((socket) => this.#accept(socket));
  }

  /** @returns the port; 0 asks for a free one. */
  async listen(port: number): Promise<number> {
    this.#server.listen(port);
    await once(this.#server, 'listening');
    this.#beat = setInterval(() => this.#turn(), BEAT_MS);
    return (this.#server.address() as AddressInfo).port;
  }

  /** Ranks that have come so far. */
  get joined(): number[] {
    return [...this.#members.keys()].sort((a, b) => a - b);
  }

  /** Ends every wait of every rank with this message; the first one counts, also for ranks that come later. */
  abort(rank: number, message: string): void {
    if (this.#aborted !== null) return;
    this.#aborted = `abort ${rank} ${onOneLine(message)}\n`;
    for (const { socket } of this.#members.values()) socket.write(this.#aborted);
  }

  close(): void {
    this.#closed = true;
    if (this.#beat) clearInterval(this.#beat);
    if (this.#gathering) clearTimeout(this.#gathering);
    this.#server.close();
    for (const socket of this.#sockets) socket.destroy();
  }

  #accept(socket: Socket): void {
    this.#sockets.add(socket);
    socket.setNoDelay(true).setEncoding('utf8');
    let member: Member | null = null;
    let received = '';
    socket.on('error', () => socket.destroy());
    socket.on('data', (text: string) => {
      received += text;
      for (let end = received.indexOf('\n'); end >= 0; end = received.indexOf('\n')) {
        const line = received.slice(0, end);
        received = received.slice(end + 1);
        if (member === null) {
          member = this.#join(line, socket);
          if (member === null) return void socket.destroy();
        } else this.#read(member, line);
      }
    });
    socket.on('close', () => {
      this.#sockets.delete(socket);
      if (member !== null) this.#leave(member);
    });
  }

  /** Null for a stranger, and for a rank that is here already. */
  #join(line: string, socket: Socket): Member | null {
    const hello = parse<Hello>(line);
    const { hostOf, version } = this.#options;
    if (hello?.token !== this.token || hostOf[hello.rank] === undefined) return null;
    const { rank, pid, host } = hello;
    const before = this.#members.get(rank);
    if (before !== undefined) {
      const first = `process ${before.hello.pid} on ${before.hello.host}`;
      const message = `rank ${rank} was started twice: as ${first} and as process ${pid} on ${host}`;
      this.#options.onFault({ kind: 'twice', ranks: [rank], lostHosts: [], message });
      socket.write(this.#aborted ?? `abort ${rank} ${message}\n`);
      return null;
    }
    const member: Member = {
      hello,
      socket,
      silentTurns: 0,
      error: null,
      exitCode: null,
      over: false,
    };
    if (this.#members.size === 0) this.#since = Date.now();
    this.#members.set(rank, member);
    if (this.#members.size === hostOf.length) this.#since = null;
    for (const line of this.#left.values()) socket.write(line);
    if (this.#aborted !== null) socket.write(this.#aborted);
    else if (hello.version !== version)
      this.#options.onFault({
        kind: 'version',
        ranks: [rank],
        lostHosts: [],
        message: `${this.#place(rank)} has deepspeed-js ${hello.version}, the launcher is deepspeed-js ${version}`,
      });
    return member;
  }

  #read(member: Member, line: string): void {
    member.silentTurns = 0;
    if (line === '') return;
    const said = parse<{ bye?: number; error?: RankError; left?: string }>(line);
    if (said?.error) member.error ??= said.error;
    if (typeof said?.left === 'string' && member.error === null)
      this.#tellLeft(member.hello.rank, said.left);
    if (typeof said?.bye !== 'number') return;
    member.exitCode = said.bye;
    if (said.bye === 0) this.#tellLeft(member.hello.rank, 'its process has ended');
  }

  /** The first reason counts. Those who have met the rank hear of its end through MPI; others would wait for ever. */
  #tellLeft(rank: number, reason: string): void {
    if (this.#left.has(rank)) return;
    const line = `left ${rank} ${onOneLine(reason)}\n`;
    this.#left.set(rank, line);
    for (const { hello, socket } of this.#members.values())
      if (hello.rank !== rank) socket.write(line);
  }

  #leave(member: Member): void {
    if (member.over || this.#closed) return;
    member.over = true;
    if (member.exitCode !== null || member.error !== null) {
      if (this.#gathering === null) this.#options.onEnd(this.#endOf(member, null));
      else this.#following.push(member);
      return;
    }
    this.#fallen.push(member);
    this.#gathering ??= setTimeout(() => {
      this.#gathering = null;
      for (const members of this.#byBlame(this.#fallen.splice(0)))
        this.#lose(members, 'died', 'its connection ended without a word');
      for (const other of this.#following.splice(0)) this.#options.onEnd(this.#endOf(other, null));
    }, GATHER_MS);
  }

  #turn(): void {
    for (const { socket, over } of this.#members.values()) if (!over) socket.write('\n');
    const { startTimeoutMs } = this.#options;
    if (this.#since !== null && Date.now() - this.#since > startTimeoutMs) this.#miss();
    // First what has come while this process had no time to read it.
    setImmediate(() => this.#judgeSilence());
  }

  /** Silence is counted in turns: while this process does not run, nobody is silent. */
  #judgeSilence(): void {
    if (this.#closed) return;
    const { linkTimeoutMs } = this.#options;
    const silent = [...this.#members.values()].filter((member) => {
      member.silentTurns += 1;
      return !member.over && (member.silentTurns - 1) * BEAT_MS > linkTimeoutMs;
    });
    if (silent.length === 0) return;
    for (const member of silent) {
      member.over = true;
      member.socket.destroy();
    }
    this.#lose(silent, 'cut off', `nothing was heard for ${Math.round(linkTimeoutMs / 1000)} s`);
  }

  /** Tells, once, who has not come. */
  #miss(): void {
    this.#since = null;
    const { hostOf, startTimeoutMs } = this.#options;
    const ranks = [...hostOf.keys()].filter((rank) => !this.#members.has(rank));
    const lostHosts = this.#wholeHosts(ranks);
    const verb = ranks.length > 1 ? 'have not come' : 'has not come';
    const who = ranks.map((rank) => this.#place(rank)).join(', ');
    const message = `${who} ${verb}: the first rank is here for ${Math.round(startTimeoutMs / 1000)} s`;
    this.#options.onFault({ kind: 'absent', ranks, lostHosts, message });
  }

  /** Machines of which these are all ranks. */
  #wholeHosts(ranks: readonly number[]): string[] {
    const { hostOf } = this.#options;
    return [...new Set(ranks.map((rank) => hostOf[rank]!))].filter((host) =>
      hostOf.every((other, rank) => other !== host || ranks.includes(rank)),
    );
  }

  /**
   * Where nobody is left, the starter has ended the others when it lost the first: those of its machine come
   * first, and by themselves.
   */
  #byBlame(fallen: Member[]): Member[][] {
    const { hostOf } = this.#options;
    const host = ({ hello }: Member) => hostOf[hello.rank]!;
    const fallenHosts = new Set(fallen.map(host));
    if (fallenHosts.size === 1 || hostOf.some((name) => !fallenHosts.has(name))) return [fallen];
    const first = host(fallen[0]!);
    return [
      fallen.filter((one) => host(one) === first),
      fallen.filter((one) => host(one) !== first),
    ];
  }

  /** One fault for all of them, and the end of each. */
  #lose(members: readonly Member[], kind: 'died' | 'cut off', how: string): void {
    const ranks = members.map(({ hello }) => hello.rank).sort((a, b) => a - b);
    const { hostOf } = this.#options;
    const lostHosts = this.#wholeHosts(ranks);
    const whole = lostHosts.length > 0 && ranks.every((rank) => lostHosts.includes(hostOf[rank]!));
    const plural = whole ? lostHosts.length > 1 : ranks.length > 1;
    const who = whole
      ? `${lostHosts.length > 1 ? 'hosts' : 'host'} ${lostHosts.join(', ')} (${nameRanks(ranks)})`
      : ranks.map((rank) => this.#place(rank)).join(', ');
    const verb =
      kind === 'died' ? (plural ? 'have died' : 'has died') : plural ? 'are cut off' : 'is cut off';
    const message = `${who} ${verb}: ${how}`;
    this.#options.onFault({ kind, ranks, lostHosts, message });
    for (const member of members) this.#options.onEnd(this.#endOf(member, message));
  }

  #endOf({ hello, error, exitCode }: Member, lost: string | null): RankEnd {
    const { rank, pid } = hello;
    return { rank, pid, exitCode: exitCode ?? 1, signal: null, error, tail: [], lost };
  }

  /** `rank 3 on worker-1 (process 4711)` */
  #place(rank: number): string {
    const pid = this.#members.get(rank)?.hello.pid;
    return `rank ${rank} on ${this.#options.hostOf[rank]}${pid === undefined ? '' : ` (process ${pid})`}`;
  }
}

function onOneLine(text: string): string {
  return text.replace(/\s*\n\s*/g, ' ');
}

function parse<T>(line: string): T | null {
  try {
    return JSON.parse(line) as T;
  } catch {
    return null;
  }
}
