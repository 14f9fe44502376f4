import java.io.File;
import java.net.MalformedURLException;
import java.net.URL;
import java.net.URLClassLoader;

/**
 * The system's class loader of Beam's job server, with the jars of the folder in the property "jars". It lets the job server not
 * see that its classes come from jars: it would upload all of them with every job, and the cluster, which has them anyway, would
 * take a quarter of a minute to write them down. Flink's client makes exceptions of what the cluster says with the system's loader, so it
 * has to be that one.
 */
public final class JobServer extends URLClassLoader {
  public JobServer(ClassLoader parent) throws MalformedURLException {
    super(jars(), parent);
  }

  private static URL[] jars() throws MalformedURLException {
    File[] files = new File(System.getProperty("jars")).listFiles((dir, name) -> name.endsWith(".jar"));
    URL[] jars = new URL[files.length];
    for (int i = 0; i < jars.length; i++) {
      jars[i] = files[i].toURI().toURL();
    }
    return jars;
  }

  @Override
  public URL[] getURLs() {
    return new URL[0];
  }
}
