import java.io.File;
import java.net.URL;
import java.net.URLClassLoader;
import java.util.Arrays;

/**
 * Runs Beam's job server with the jars of a folder, its first argument. It lets the job server not see that its classes come from
 * jars: it would upload all of them with every job, and the cluster, which has them anyway, would take a quarter of a minute to
 * write them down.
 */
final class JobServer extends URLClassLoader {
  private JobServer(URL[] jars) {
    super(jars, ClassLoader.getPlatformClassLoader());
  }

  @Override
  public URL[] getURLs() {
    return new URL[0];
  }

  public static void main(String[] args) throws Exception {
    File[] files = new File(args[0]).listFiles((dir, name) -> name.endsWith(".jar"));
    URL[] jars = new URL[files.length];
    for (int i = 0; i < jars.length; i++) {
      jars[i] = files[i].toURI().toURL();
    }
    ClassLoader loader = new JobServer(jars);
    Thread.currentThread().setContextClassLoader(loader);
    loader
        .loadClass("org.apache.beam.runners.flink.FlinkJobServerDriver")
        .getMethod("main", String[].class)
        .invoke(null, (Object) Arrays.copyOfRange(args, 1, args.length));
  }
}
