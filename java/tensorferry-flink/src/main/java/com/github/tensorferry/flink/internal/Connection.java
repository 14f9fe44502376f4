package com.github.tensorferry.flink.internal;

import com.github.tensorferry.flink.*;
import com.github.tensorferry.flink.internal.FerryClient.Call;
import com.github.tensorferry.flink.internal.Frames.*;
import java.io.*;
import java.util.*;
import java.util.concurrent.locks.LockSupport;

/** One connection to a ferry. The client's monitor guards its fields. */
final class Connection {
  private static final int BUFFER = 1 << 16;
  private static final int AT_ONCE = 256;

  /** Calls that were sent and have no answer, the oldest first. */
  final LinkedHashMap<Long, Call> sent = new LinkedHashMap<>();
  Welcome welcome;
  boolean held;
  /** The ferry has welcomed the client, or says that it waits for a model server. */
  boolean there;
  private final FerryClient client;
  private final List<byte[]> control = new ArrayList<>();
  private Transport transport;
  private Thread writer;
  private boolean draining;
  private boolean ended;
  private boolean closed;
  private boolean pinged;
  private long sentBytes;
  private long lastFrame = System.nanoTime();
  private long resumed = lastFrame;
  private long[] lastStats = new long[Stats.NUMBERS];

  Connection(FerryClient client) {
    this.client = client;
    client.spawn("reader", this::read);
  }

  /** Lets the writer look for what it may send. */
  void wake() {
    LockSupport.unpark(writer);
  }

  void cancel(long id) {
    Call call = sent.get(id);
    if (call != null && !call.cancelled) {
      call.cancelled = true;
      send(Frames.CANCEL, id);
    }
  }

  /** Says END if no answer is due, and reports whether it does. */
  boolean end() {
    draining = welcome != null && sent.isEmpty();
    wake();
    return draining;
  }

  /** Pings a silent ferry, and gives up one that is gone or has forgotten a call. */
  void check() {
    long silent = FerryClient.millisSince(lastFrame);
    if (silent >= client.config.silenceMillis) {
      close("nothing came from the ferry for " + silent + " ms");
    } else if (silent >= client.config.pingMillis && !pinged) {
      pinged = true;
      send(Frames.PING, 0);
    }
    if (welcome != null && welcome.timeoutMillis > 0 && !held && !sent.isEmpty()) {
      long oldest = sent.values().iterator().next().sent;
      long millis = FerryClient.millisSince(Math.max(oldest, resumed));
      if (millis > welcome.timeoutMillis + welcome.holdMillis) {
        close("a call had no answer for " + millis + " ms, which is more than timeout and hold");
      }
    }
  }

  /** Closes the connection, once. */
  void close(String why) {
    if (!closed) {
      closed = true;
      if (transport != null) {
        transport.close();
      }
      wake();
      client.closed(this, why);
    }
  }

  private void send(int kind, long id) {
    control.add(Frames.frame(kind, id));
    wake();
  }

  private void read() {
    try {
      Transport t = new Transport(client.config.endpoint);
      synchronized (client) {
        transport = t;
        if (closed) {
          t.close();
        }
      }
      t.connect(client.config.tls);
      synchronized (client) {
        writer = client.spawn("writer", this::write);
      }
      InputStream in = new BufferedInputStream(t.in, BUFFER);
      while (true) {
        hear(Frames.read(in, client.config.maxFrame));
      }
    } catch (Throwable e) {
      lose(e);
    }
  }

  /** Takes one frame of the ferry. */
  private void hear(Frame f) throws Exception {
    Call call = null;
    Failure failure = null;
    synchronized (client) {
      lastFrame = System.nanoTime();
      pinged = false;
      if (f.kind == Frames.RESULT || f.kind == Frames.FAILURE || f.kind == Frames.CANCELLED) {
        call = sent.get(f.id);
        if (call == null || f.kind == Frames.CANCELLED && !call.cancelled) {
          throw new BadFrame("an answer to call " + f.id + ", which waits for none such");
        }
        if (f.kind == Frames.FAILURE) {
          failure = f.read(Frames::failure);
          failure.model = welcome.signature.model;
        }
        sent.remove(f.id);
        sentBytes -= call.frame.length;
        client.progress();
      } else {
        control(f);
      }
      wake();
    }
    if (call != null && !call.cancelled) {
      client.listener.answer(f.id, f.kind == Frames.RESULT ? f.payload : null, failure);
    }
  }

  private void control(Frame f) throws Exception {
    switch (f.kind) {
      case Frames.WELCOME:
        if (welcome != null) {
          throw new BadFrame("WELCOME a second time");
        }
        welcome = f.read(Frames::welcome);
        there = true;
        client.welcome(welcome.signature);
        break;
      case Frames.BROKEN:
        throw new SidecarException(f.read(Frames::failure), null);
      case Frames.HELD:
        f.read(Frames::string);
        held = true;
        there = true;
        client.listener.changed();
        break;
      case Frames.RESUMED:
        held = false;
        resumed = lastFrame;
        break;
      case Frames.CREDIT:
        f.read(welcome == null ? new Welcome()::credit : welcome::credit);
        break;
      case Frames.DRAIN:
        draining = true;
        client.drain(this);
        break;
      case Frames.STATS:
        long[] stats = f.read(Frames::stats);
        client.stats.add(lastStats, stats);
        lastStats = stats;
        break;
      case Frames.PING:
        send(Frames.PONG, f.id);
        break;
      case Frames.PONG:
        break;
      case Frames.END:
        throw new EOFException("the ferry ended the connection");
      default:
        throw new BadFrame("kind " + f.kind);
    }
  }

  private void write() {
    List<byte[]> batch = new ArrayList<>();
    try {
      OutputStream out = new BufferedOutputStream(transport.out, BUFFER);
      out.write(Frames.MAGIC);
      batch.add(Frames.frame(Frames.HELLO, 0, client.config.hello));
      while (true) {
        for (byte[] frame : batch) {
          out.write(frame);
        }
        out.flush();
        batch.clear();
        synchronized (client) {
          if (closed) {
            return;
          }
          take(batch);
        }
        if (batch.isEmpty()) {
          LockSupport.park(this);
        }
      }
    } catch (Throwable e) {
      lose(e);
    }
  }

  /** Takes what may be sent now. */
  private void take(List<byte[]> batch) {
    batch.addAll(control);
    control.clear();
    while (welcome != null && !draining && batch.size() < AT_ONCE && !client.waiting.isEmpty()) {
      Map.Entry<Long, Call> next = client.waiting.firstEntry();
      Call call = next.getValue();
      long bytes = sentBytes + call.frame.length;
      if (call.frame.length > welcome.frame) {
        client.listener.answer(next.getKey(), null, client.local("record", "RESOURCE_EXHAUSTED",
            "the row is longer than the ferry's limit of " + welcome.frame + " bytes"));
      } else if (sent.size() < welcome.rows && (sent.isEmpty() || bytes <= welcome.bytes)) {
        call.sent = System.nanoTime();
        sent.put(next.getKey(), call);
        sentBytes = bytes;
        batch.add(call.frame);
      } else {
        break;
      }
      client.waiting.pollFirstEntry();
    }
    if (draining && !ended && welcome != null && sent.isEmpty()) {
      ended = true;
      batch.add(Frames.frame(Frames.END, 0));
    }
  }

  private void lose(Throwable e) {
    synchronized (client) {
      close(e.getMessage() == null ? e.toString() : e.getMessage());
      if (e instanceof SidecarException && ((SidecarException) e).failure.isFinal()) {
        client.fail(((SidecarException) e).failure);
      }
    }
    client.listener.changed();
  }
}
