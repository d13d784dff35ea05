/** Numbers that training reports, and what takes them. */

export interface MonitorEvent {
  /** DeepSpeed's names: `Train/Samples/train_loss`, ... */
  name: string;
  value: number;
  /** DeepSpeed's x-axis: samples seen by all ranks. */
  step: number;
}

/** Writes events to files. All calls come from rank 0 and return when the bytes are with the system. */
export interface Monitor {
  /** Files that this monitor has written to so far. */
  readonly files: readonly string[];
  /** @throws OUTPUT_NOT_WRITABLE */
  writeEvents(events: readonly MonitorEvent[]): void;
  /** Asks the system to put everything on the disk. */
  flush(): void;
  close(): void;
}

export interface MonitorFolder {
  /** Empty: the working directory. */
  output_path: string;
  job_name: string;
}

/** Sends every event to all of `monitors`. */
export function combineMonitors(monitors: readonly Monitor[]): Monitor {
  return {
    get files() {
      return monitors.flatMap((monitor) => monitor.files);
    },
    writeEvents: (events) => {
      for (const monitor of monitors) monitor.writeEvents(events);
    },
    flush: () => {
      for (const monitor of monitors) monitor.flush();
    },
    close: () => {
      for (const monitor of monitors) monitor.close();
    },
  };
}
