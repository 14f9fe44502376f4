package com.github.tensorferry.flink;

import java.io.Serializable;

/** Why a record has no result. It is a POJO in Flink's sense, for streams of dead letters. */
public final class Failure implements Serializable {
  private static final long serialVersionUID = 1;
  private static final String[] CLASSES =
      {"backend", "record", "timeout", "overload", "transport", "permanent"};

  /** What becomes of the record: 0 the job fails, 1 it is dropped, 2 it is a dead letter. */
  public int action;
  /** One of backend, record, timeout, overload, transport and permanent. */
  public String failureClass = "backend";
  /** How often the record was called. */
  public long attempts;
  /** The gRPC code, such as INVALID_ARGUMENT, and the server's own name. Both may be empty. */
  public String code = "";
  public String reason = "";
  /** What happened, where, and what to do. */
  public String text = "";
  public String model = "";
  /** The model server, or the ferry if it is the one that fails. */
  public String endpoint = "";
  /** The id of the request to the model server. It may be empty. */
  public String request = "";

  /** Returns a failure that the client has found. */
  public static Failure of(String failureClass, String code, String text) {
    Failure f = new Failure();
    f.failureClass = failureClass;
    f.code = code;
    f.text = text;
    return f;
  }

  /** Returns the name of a class that the protocol numbers. A number without one is backend. */
  public static String className(int number) {
    return CLASSES[number < CLASSES.length ? number : 0];
  }

  /** Reports whether no restart mends it, as with a bad record or a mistake in the set-up. */
  public boolean isFinal() {
    return failureClass.equals("permanent") || failureClass.equals("record");
  }

  @Override public String toString() {
    return text + " (class " + failureClass + ", code " + code + ", reason " + reason + ", model "
        + model + ", endpoint " + endpoint + ", request " + request + ")";
  }
}
