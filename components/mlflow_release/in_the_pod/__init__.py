"""Code that runs in MLflow's pods, with the packages of the chart's image. Here it is only read as text."""
