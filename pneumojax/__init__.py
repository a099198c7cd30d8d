"""PneumoJAX: CNNs that tell pneumonia from normal on chest radiographs, in JAX."""
