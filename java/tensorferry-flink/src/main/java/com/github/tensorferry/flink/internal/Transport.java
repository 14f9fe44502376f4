package com.github.tensorferry.flink.internal;

import java.io.*;
import java.net.*;
import java.nio.ByteBuffer;
import java.nio.channels.SocketChannel;
import java.nio.file.Path;
import java.nio.file.Paths;
import javax.net.ssl.*;

/** A connection's bytes, over a Unix socket or TCP. Closing it from any thread ends all waits. */
final class Transport implements Closeable {
  private final String endpoint;
  private final Closeable socket;
  InputStream in;
  OutputStream out;

  /** Prepares a connection, so that it can be closed while connect waits. */
  Transport(String endpoint) throws IOException {
    this.endpoint = endpoint;
    socket = isUnix(endpoint) ? unixChannel() : new Socket();
  }

  /** Reports whether an endpoint is a Unix socket. An endpoint of no known form is refused. */
  static boolean isUnix(String endpoint) {
    if (!endpoint.matches("unix:///.+|([^:/\\[\\]]+|\\[[0-9a-fA-F:.]+\\]):\\d{1,5}")) {
      throw new IllegalArgumentException("endpoint \"" + endpoint
          + "\" is of no known form; write unix:///absolute/path.sock, host:port or [v6]:port");
    }
    return endpoint.startsWith("unix:///");
  }

  void connect(SSLContext tls) throws IOException {
    if (socket instanceof SocketChannel) {
      SocketChannel channel = (SocketChannel) socket;
      channel.connect(unixAddress(Paths.get(endpoint.substring("unix://".length()))));
      streams(channel);
      return;
    }
    int colon = endpoint.lastIndexOf(':');
    String host = endpoint.substring(0, colon).replaceAll("[\\[\\]]", "");
    int port = Integer.parseInt(endpoint.substring(colon + 1));
    Socket tcp = (Socket) socket;
    tcp.setTcpNoDelay(true);
    tcp.connect(new InetSocketAddress(host, port), 10_000);
    if (tls != null) {
      SSLSocket secure = (SSLSocket) tls.getSocketFactory().createSocket(tcp, host, port, true);
      SSLParameters parameters = secure.getSSLParameters();
      parameters.setEndpointIdentificationAlgorithm("HTTPS");
      secure.setSSLParameters(parameters);
      secure.startHandshake();
      tcp = secure;
    }
    in = tcp.getInputStream();
    out = tcp.getOutputStream();
  }

  @Override public void close() {
    try {
      socket.close();
    } catch (IOException e) {
      // A socket that cannot be closed in order is closed all the same.
    }
  }

  /** Makes streams of which one reads while the other one writes. Those of Channels wait. */
  private void streams(SocketChannel channel) {
    in = new InputStream() {
      @Override public int read() { throw new UnsupportedOperationException("arrays only"); }

      @Override public int read(byte[] b, int from, int n) throws IOException {
        return channel.read(ByteBuffer.wrap(b, from, n));
      }
    };
    out = new OutputStream() {
      @Override public void write(int b) { throw new UnsupportedOperationException("arrays only"); }

      @Override public void write(byte[] b, int from, int n) throws IOException {
        for (ByteBuffer left = ByteBuffer.wrap(b, from, n); left.hasRemaining(); ) {
          channel.write(left);
        }
      }
    };
  }

  // Java has Unix sockets since 16. The bytecode is of Java 11, so they are asked for by name.

  private static SocketChannel unixChannel() throws IOException {
    try {
      return (SocketChannel) SocketChannel.class.getMethod("open", ProtocolFamily.class)
          .invoke(null, StandardProtocolFamily.valueOf("UNIX"));
    } catch (IllegalArgumentException | ReflectiveOperationException e) {
      throw new IOException("Java " + Runtime.version().feature() + " has no Unix sockets; use "
          + "Java 16 or later, or a ferry that listens on 127.0.0.1:PORT", e);
    }
  }

  private static SocketAddress unixAddress(Path path) throws IOException {
    try {
      return (SocketAddress) Class.forName("java.net.UnixDomainSocketAddress")
          .getMethod("of", Path.class).invoke(null, path);
    } catch (ReflectiveOperationException e) {
      throw new IOException("no Unix socket can have the path " + path, e);
    }
  }
}
