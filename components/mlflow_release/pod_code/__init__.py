"""Code that runs in MLflow's pods, with the packages of the chart's image. The program reads it as text only."""
