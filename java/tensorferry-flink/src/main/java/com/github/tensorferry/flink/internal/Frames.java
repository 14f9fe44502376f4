package com.github.tensorferry.flink.internal;

import com.github.tensorferry.flink.Failure;
import com.github.tensorferry.flink.Signature;
import java.io.*;
import java.nio.*;
import java.nio.charset.CharacterCodingException;
import java.nio.charset.StandardCharsets;
import java.util.*;
import java.util.function.Function;

/** The frames of the ferry's protocol. docs/ferry.md describes them. */
public final class Frames {
  /** The first bytes on a connection. They are no beginning of HTTP. */
  static final byte[] MAGIC = {(byte) 0xf1, 'F', 'E', 'R', 'R', 'Y', '\r', '\n'};
  /** The greatest version of the protocol that the client knows. */
  public static final int VERSION = 1;
  /** The bytes of a CALL in front of its row: length, id, kind, and the length of an empty key. */
  public static final int CALL_HEADER = 17;

  static final int HELLO = 1, CALL = 2, CANCEL = 3, END = 4, PING = 5, PONG = 6;
  static final int WELCOME = 16, RESULT = 17, FAILURE = 18, BROKEN = 19, HELD = 20, RESUMED = 21,
      CREDIT = 22, DRAIN = 23, STATS = 24, CANCELLED = 25;
  private static final Set<Integer> BARE =
      Set.of(CANCEL, END, PING, PONG, RESUMED, DRAIN, CANCELLED);

  private Frames() {}

  static byte[] frame(int kind, long id, byte... payload) {
    return ByteBuffer.allocate(13 + payload.length).order(ByteOrder.LITTLE_ENDIAN)
        .putInt(9 + payload.length).putLong(id).put((byte) kind).put(payload).array();
  }

  /** Fills in the header of a CALL, whose row begins at CALL_HEADER. */
  static void callHeader(byte[] frame, long id) {
    ByteBuffer.wrap(frame).order(ByteOrder.LITTLE_ENDIAN)
        .putInt(frame.length - 4).putLong(id).put((byte) CALL).putInt(0);
  }

  /** Reads a frame. One that is longer than max bytes is refused before its payload is read. */
  static Frame read(InputStream in, int max) throws IOException {
    ByteBuffer head = ByteBuffer.wrap(bytes(in, 13)).order(ByteOrder.LITTLE_ENDIAN);
    int length = head.getInt();
    if (length < 9 || length > max) {
      throw new BadFrame(Integer.toUnsignedString(length) + " bytes, not 9 to " + max);
    }
    Frame f = new Frame(head.getLong(), head.get() & 0xff, bytes(in, length - 9));
    if (f.payload.length > 0 && BARE.contains(f.kind)) {
      throw new BadFrame("kind " + f.kind + " with a payload");
    }
    return f;
  }

  /** Reads n bytes. Memory grows with what arrives, so a length alone costs nothing. */
  private static byte[] bytes(InputStream in, int n) throws IOException {
    byte[] b = in.readNBytes(n);
    if (b.length < n) {
      throw new EOFException("the ferry closed the connection");
    }
    return b;
  }

  /** A frame that breaks a rule of the protocol. It ends the connection. */
  static final class BadFrame extends IOException {
    private static final long serialVersionUID = 1;

    BadFrame(String what) {
      super("the ferry sent a frame that breaks the protocol: " + what);
    }
  }

  /** One frame as it was read. */
  static final class Frame {
    final long id;
    final int kind;
    final byte[] payload;

    Frame(long id, int kind, byte[] payload) {
      this.id = id;
      this.kind = kind;
      this.payload = payload;
    }

    /** Reads the payload with a function, which must use all of it. */
    <T> T read(Function<ByteBuffer, T> function) throws BadFrame {
      ByteBuffer in = ByteBuffer.wrap(payload).order(ByteOrder.LITTLE_ENDIAN);
      try {
        T value = function.apply(in);
        if (!in.hasRemaining()) {
          return value;
        }
      } catch (RuntimeException e) {
        throw new BadFrame("kind " + kind + ", whose payload cannot be read (" + e + ")");
      }
      throw new BadFrame("kind " + kind + " with " + in.remaining() + " bytes too many");
    }
  }

  // These read payloads. What they throw says that the payload is not as it must be.

  static String string(ByteBuffer in) {
    int length = in.getInt();
    ByteBuffer text = in.slice().limit(length);
    in.position(in.position() + length);
    try {
      return StandardCharsets.UTF_8.newDecoder().decode(text).toString();
    } catch (CharacterCodingException e) {
      throw new IllegalArgumentException("a string that is not UTF-8");
    }
  }

  static Failure failure(ByteBuffer in) {
    Failure f = new Failure();
    f.action = in.get() & 0xff;
    f.failureClass = Failure.className(in.get() & 0xff);
    f.attempts = Integer.toUnsignedLong(in.getInt());
    f.code = string(in);
    f.reason = string(in);
    f.text = string(in);
    f.endpoint = string(in);
    f.request = string(in);
    return f;
  }

  /** Reads STATS: the value of each number, at its number. Unknown ones are left out. */
  static long[] stats(ByteBuffer in) {
    long[] values = new long[Stats.NUMBERS];
    for (int left = in.getShort() & 0xffff; left > 0; left--) {
      int number = in.getShort() & 0xffff;
      values[number < values.length ? number : 0] = in.getLong();
    }
    return values;
  }

  /** What the ferry allows, and what the model takes and gives. */
  static final class Welcome {
    int version;
    long rows, bytes, frame, timeoutMillis, holdMillis;
    Signature signature;

    /** Reads the rows and bytes of WELCOME and of CREDIT. */
    Welcome credit(ByteBuffer in) {
      rows = Integer.toUnsignedLong(in.getInt());
      bytes = unsigned(in.getLong());
      return this;
    }
  }

  static Welcome welcome(ByteBuffer in) {
    Welcome w = new Welcome();
    w.version = in.getShort() & 0xffff;
    if (w.version < 1 || w.version > VERSION) {
      throw new IllegalArgumentException("version " + w.version + " of the protocol");
    }
    w.credit(in);
    w.frame = Integer.toUnsignedLong(in.getInt());
    w.timeoutMillis = unsigned(in.getLong());
    w.holdMillis = unsigned(in.getLong());
    w.signature = new Signature(string(in), string(in), tensors(in), tensors(in));
    return w;
  }

  private static List<Signature.Tensor> tensors(ByteBuffer in) {
    List<Signature.Tensor> list = new ArrayList<>();
    for (int left = in.getShort() & 0xffff; left > 0; left--) {
      String name = string(in);
      String datatype = string(in);
      long[] shape = new long[in.getShort() & 0xffff];
      Arrays.setAll(shape, d -> in.getLong());
      list.add(new Signature.Tensor(name, datatype, shape));
    }
    return list;
  }

  /** Times and sizes that Java cannot count are as good as endless. */
  private static long unsigned(long v) {
    return v < 0 ? Long.MAX_VALUE / 4 : v;
  }
}
